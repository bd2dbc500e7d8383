"""Builds a folder of pictures that break readers, with what each must become."""

import io
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

EXACT, NEAR = 0, 12
UNREADABLE = ("failing.png", "pipe.png", "dangling.png", "itself.png")
"""Uris of which no byte can be read; of the first only while open() is made to fail."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """status: of the row. pixels: (H, W, 3) uint8 within ``tolerance``, or None where there is nothing to compare."""

    uri: str
    status: str = "ok"
    reason: str = ""
    pixels: np.ndarray | None = None
    tolerance: int = EXACT


def picture(height: int = 24, width: int = 20) -> np.ndarray:
    """(H, W, 3) uint8, smooth, with no symmetry and no equal channels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([40 + 6 * y + x, 30 + 9 * x, 220 - 5 * y - 3 * x], axis=-1).clip(0, 255).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 without any order."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def png(size: tuple[int, int], depth: int, colour: int, data: bytes) -> bytes:
    """A PNG by hand: header and (filtered, uncompressed) data as given, whether or not they agree."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[:, :, None] / 255
    return np.rint(colour * weight + 255 * (1 - weight)).astype(np.uint8)


def build(folder: Path) -> list[Expected]:
    """Write the pictures below ``folder`` and say what rows they must become."""
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "caption.txt").write_text("a caption, not a picture")
    groups = (_modes, _animations, _orientations, _names, _damaged, _links, _archives)
    return [expected for group in groups for expected in group(folder)]


def _modes(folder: Path) -> list[Expected]:
    rgb, (y, x) = picture(), np.mgrid[0:24, 0:20]
    alpha = (x * 13).astype(np.uint8)
    deep = (y * 2600 + x * 131).astype(np.uint16)
    deep_rgb = np.stack([deep, 65535 - deep, deep // 2], axis=-1)
    image = Image.fromarray(rgb)
    palette = image.quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    bits = (x + y) % 3 == 0
    unit = ((y * 20 + x) / 479).astype(np.float32)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep_rgb)
    no_alpha = (colours == colours[0, 0]).all(axis=2)
    cases: list[tuple[str, bytes, np.ndarray | None, int]] = [
        ("rgb.png", encoded(image), rgb, EXACT),
        ("rgb.jpg", encoded(image, "JPEG", quality=95, subsampling=0), rgb, NEAR),
        ("rgb.bmp", encoded(image, "BMP"), rgb, EXACT),
        ("rgb.tga", encoded(image, "TGA"), rgb, EXACT),
        ("rgb.ppm", encoded(image, "PPM"), rgb, EXACT),
        ("rgb.webp", encoded(image, "WEBP", lossless=True), rgb, EXACT),
        ("grey.jpg", encoded(image.convert("L"), "JPEG", quality=95), grey(np.asarray(image.convert("L"))), NEAR),
        ("cmyk.jpg", _without_adobe(encoded(image.convert("CMYK"), "JPEG", quality=95)), rgb, NEAR),
        ("cmyk_adobe.jpg", encoded(image.convert("CMYK"), "JPEG", quality=95), rgb, NEAR),
        ("cmyk.tif", encoded(image.convert("CMYK"), "TIFF"), rgb, 2),
        ("grey16.png", encoded(Image.fromarray(deep)), grey(np.rint(deep / 257).astype(np.uint8)), EXACT),
        ("rgb16.png", png((20, 24), 16, 2, rows), np.rint(deep_rgb / 257).astype(np.uint8), 1),
        ("palette.png", encoded(palette), colours, EXACT),
        (
            "palette_alpha.png",
            encoded(palette, transparency=int(np.asarray(palette)[0, 0])),
            np.where(no_alpha[:, :, None], 255, colours),
            EXACT,
        ),
        ("key.png", encoded(image, transparency=tuple(rgb[0, 0].tolist())), _keyed(rgb), EXACT),
        ("rgba.png", encoded(Image.fromarray(np.dstack([rgb, alpha]))), over_white(rgb, alpha), EXACT),
        (
            "la.png",
            encoded(Image.fromarray(np.dstack([rgb[:, :, 0], alpha]), "LA")),
            over_white(grey(rgb[:, :, 0]), alpha),
            EXACT,
        ),
        ("bits.png", encoded(Image.fromarray(bits)), grey(np.where(bits, 255, 0).astype(np.uint8)), EXACT),
        ("float.tif", encoded(Image.fromarray(unit), "TIFF"), grey(np.rint(unit * 255).astype(np.uint8)), EXACT),
    ]
    for name, data, _, _ in cases:
        (folder / name).write_bytes(data)
    outside = {"float_wide.tif": unit * 900, "float_nan.tif": unit * np.nan, "int32.tif": deep.astype(np.int32) * 99}
    for name, values in outside.items():
        (folder / name).write_bytes(encoded(Image.fromarray(values), "TIFF"))
    return [
        *(Expected(uri=name, pixels=pixels, tolerance=tolerance) for name, _, pixels, tolerance in cases),
        *(Expected(uri=name, status="unreadable", reason="outside [0,") for name in outside),
    ]


def _keyed(rgb: np.ndarray) -> np.ndarray:
    return np.where((rgb == rgb[0, 0]).all(axis=2)[:, :, None], 255, rgb).astype(np.uint8)


def _without_adobe(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def _animations(folder: Path) -> list[Expected]:
    first, others = Image.fromarray(picture()), [Image.fromarray(255 - picture()), Image.fromarray(picture() // 2)]
    colours = first.quantize(64)
    options = {"save_all": True, "append_images": others}
    (folder / "animated.gif").write_bytes(encoded(colours, "GIF", **options))
    (folder / "animated.webp").write_bytes(encoded(first, "WEBP", lossless=True, **options))
    (folder / "animated.png").write_bytes(encoded(first, "PNG", **options))
    (folder / "pages.tif").write_bytes(encoded(first, "TIFF", **options))
    exact = [Expected(uri=f"{name}", pixels=picture()) for name in ("animated.webp", "animated.png", "pages.tif")]
    return [Expected(uri="animated.gif", pixels=np.asarray(colours.convert("RGB"))), *exact]


def _orientations(folder: Path) -> list[Expected]:
    """Each file stores the pixels turned so that its EXIF orientation turns them back."""
    upright = picture()
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    out = []
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(pixels))
        for form, name in (("PNG", "png"), ("TIFF", "tif"), ("JPEG", "jpg")):
            uri = f"exif/{orientation}.{name}"
            (folder / uri).parent.mkdir(exist_ok=True)
            options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
            (folder / uri).write_bytes(encoded(image, form, exif=exif, **options))
            out.append(Expected(uri=uri, pixels=upright, tolerance=NEAR if form == "JPEG" else EXACT))
    return out


def _names(folder: Path) -> list[Expected]:
    data, jpeg = encoded(Image.fromarray(picture())), encoded(Image.fromarray(picture()), "JPEG")
    names = ["no_extension", "png.jpg", "ünïcödé-图片.png", "new\nline.png", "quo\"te's.png", "🐈.png", "תמונה.png"]
    names += [" space .png", "50%20.png", "a:b.png", "semi;--.png", "x" * 251 + ".png", "x.png/inside.png", "UPPER.PNG"]
    names += ["back\\slash.png", "other.zip!", "data.bin"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "jpg.png").write_bytes(jpeg)
    (folder / "text.jpg").write_text("<html>404 not found</html>")
    (folder / "pool:b.png").write_bytes(data)
    (folder / "dir.zip!").mkdir()
    (folder / "dir.zip!" / "b.png").write_bytes(data)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(data)
    return [
        *(Expected(uri=name, pixels=picture()) for name in [*names, "pool:pool:b.png", "dir.zip!!/b.png"]),
        Expected(uri="jpg.png"),
        Expected(uri="text.jpg", status="unreadable", reason="not a picture"),
        Expected(uri="caf\\xe9.png", status="unreadable", reason="rename"),
    ]


def _damaged(folder: Path) -> list[Expected]:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    out = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"):
        data = encoded(large, form)
        (folder / f"truncated.{form.lower()}").write_bytes(data[: len(data) * 7 // 10])
        out.append(Expected(uri=f"truncated.{form.lower()}", status="unreadable"))
    (folder / "empty.png").write_bytes(b"")
    (folder / "one.png").write_bytes(encoded(Image.new("RGB", (1, 1))))
    (folder / "thin.png").write_bytes(encoded(Image.new("RGB", (100, 7))))
    (folder / "huge.png").write_bytes(png((60000, 60000), 8, 2, b""))
    (folder / "large.png").write_bytes(png((2**14, 2**13 + 1), 8, 2, b""))
    (folder / "failing.png").write_bytes(encoded(large))
    (folder / "heic.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    os.mkfifo(folder / "pipe.png")
    return [
        *out,
        Expected(uri="empty.png", status="unreadable", reason="empty"),
        Expected(uri="one.png", status="too_small", reason="1 x 1"),
        Expected(uri="thin.png", status="too_small", reason="100 x 7"),
        Expected(uri="huge.png", status="too_large", reason="pixels"),
        Expected(uri="large.png", status="too_large", reason="pixels"),
        Expected(uri="failing.png", status="unreadable", reason="Input/output error"),
        Expected(uri="heic.heic", status="unreadable", reason="not a picture"),
        Expected(uri="pipe.png", status="unreadable", reason="not a regular file"),
    ]


def _links(folder: Path) -> list[Expected]:
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "linked.png").symlink_to(folder / "rgb.png")
    (folder / "loop").mkdir()
    (folder / "loop" / "back").symlink_to(folder, target_is_directory=True)
    (folder / "loop" / "inside.png").write_bytes(encoded(Image.fromarray(picture())))
    for name in ("a_link", "z_link"):
        (folder / name).symlink_to(folder / "loop", target_is_directory=True)
    return [
        Expected(uri="dangling.png", status="unreadable", reason="No such file"),
        Expected(uri="itself.png", status="unreadable", reason="symbolic links"),
        Expected(uri="linked.png", pixels=picture()),
        Expected(uri="loop/inside.png", pixels=picture()),
    ]


def _archives(folder: Path) -> list[Expected]:
    data = encoded(Image.fromarray(picture()))
    with zipfile.ZipFile(folder / "shard.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("good.png", "deep/er/good.png", "no_extension", "odd!/:.png", "../up.png"):
            archive.writestr(name, data)
        archive.writestr("bad.png", data[: len(data) // 2])
        archive.writestr("notes.txt", "not a picture")
        archive.writestr("__MACOSX/good.png", b"")
        archive.writestr(".hidden.png", b"")
    (folder / "twice.zip").write_bytes(_with_twins(data))
    (folder / "broken.zip").write_bytes(b"PK\x03\x04 this is no archive")
    damaged = bytearray((folder / "shard.zip").read_bytes())
    damaged[60:90] = bytes(30)  # inside the compressed bytes of the first member
    (folder / "damaged.zip").write_bytes(damaged)
    members = ("good.png", "deep/er/good.png", "no_extension", "odd!/:.png")
    return [
        *(Expected(uri=f"shard.zip!/{name}", pixels=picture()) for name in members),
        *(Expected(uri=f"{name}.zip!/../up.png", status="unreadable", reason="..") for name in ("shard", "damaged")),
        Expected(uri="shard.zip!/bad.png", status="unreadable"),
        Expected(uri="twice.zip!/a.png#1", status="unreadable", reason="same name"),
        Expected(uri="twice.zip!/a.png", pixels=picture()),
        Expected(uri="broken.zip", status="unreadable", reason="zip"),
        Expected(uri="damaged.zip!/good.png", status="unreadable"),
        *(Expected(uri=f"damaged.zip!/{name}") for name in members[1:]),
        Expected(uri="damaged.zip!/bad.png", status="unreadable"),
    ]


def _with_twins(data: bytes) -> bytes:
    """An archive with two members of one name; the second is the good one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("b.png", b"")
        archive.writestr("a.png", data)
    return buffer.getvalue().replace(b"b.png", b"a.png")
