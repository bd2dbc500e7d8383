"""The one preprocessing path: encoded bytes -> pixels -> the Space. Annotator and trainer both see its output."""

import errno
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..schemas.space import Space
from . import digests
from .parallel import map_in_order
from .processes import LateError, exclusive
from .remote import is_remote
from .uris import Roots, encoded

U8 = npt.NDArray[np.uint8]

MAX_PIXELS = 2**27
MIN_SIDE = 8
MAX_SCANS = 100  # of a progressive JPEG, each as much work as the whole picture; encoders make about ten

_HEAVY_PIXELS, _HEAVY_SCANS = 2**26, 16  # of a picture that may take a minute
_LARGE = 2**24  # pixels: of larger pictures one is decoded at a time, so that workers do not add up their memory
_STRIP = 2**18  # pixels that are converted at a time

# TGA has no magic number, so it comes last. Formats that run other programs or are mere stubs are left out.
_COMMON_FORMATS = ["JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000"]
_FORMATS = [*_COMMON_FORMATS, "ICO", "QOI", "PCX", "SGI", "TGA"]
_ORIENTATION = 0x0112  # EXIF tag

_JPEG_START, _SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # of a segment or the end: not restart, stuffed or fill bytes

# Pillow guards memory by a global limit of its own: ours is checked first, on the header, so this never shows below it.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Odd metadata is no reason to disturb the user; odd pixels raise.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.init()


class Unusable(Exception):  # noqa: N818 (it describes the picture, not a fault of the program)
    """A picture that cannot be used: ``status`` as in schemas.manifest.STATUSES, ``reason`` in one line for people.

    width, height, format: what the header said, or None.
    """

    def __init__(
        self, status: str, reason: str, *, size: tuple[int, int] | None = None, form: str | None = None
    ) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason
        self.width: int | None
        self.height: int | None
        self.width, self.height = size or (None, None)
        self.format = form

    def __reduce__(self) -> tuple[Any, ...]:
        size = None if self.width is None or self.height is None else (self.width, self.height)
        return partial(Unusable, size=size, form=self.format), (self.status, self.reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded picture. pixels: (H, W, 3) uint8 RGB, upright. format: lower-case, such as ``jpeg``."""

    pixels: U8
    format: str

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def decode(data: bytes) -> Picture:
    """The first frame of an encoded picture as upright 8-bit RGB at native resolution.

    EXIF orientation is applied; transparency is laid over white; 16-bit grey is divided by 257; floating point must
    lie in [0, 1]; colour profiles are ignored. Raises Unusable: ``too_large`` (over MAX_PIXELS) and ``too_small`` (a
    side under MIN_SIDE) from the header alone, ``unreadable`` for what is empty, truncated, or no picture. Takes about
    8 bytes a pixel, and no more for all threads together above 16 million pixels.
    """
    if not data:
        raise Unusable("unreadable", "the file is empty")
    try:
        with _opened(data) as image:
            form = (image.format or "").lower()
            _check_size(image.size, form)
            if _has_more_scans(data, MAX_SCANS):
                raise Unusable("unreadable", f"a JPEG of more than {MAX_SCANS} scans", size=image.size, form=form)
            with exclusive() if image.width * image.height > _LARGE else nullcontext():
                image.load()
                return Picture(pixels=_upright(_to_rgb(image), image), format=form)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable("too_large", f"more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise unusable(error) from error


def is_heavy(data: bytes) -> bool:
    """Whether decoding may take seconds to minutes: over 64 million pixels by the header, or many JPEG scans."""
    try:
        with _opened(data) as image:
            return image.width * image.height > _HEAVY_PIXELS or _has_more_scans(data, _HEAVY_SCANS)
    except Exception:  # noqa: BLE001 (decoders raise nearly anything on damaged data)
        return False


def _opened(data: bytes) -> Image.Image:
    """A picture of which the header has been read. Raises what decoders raise."""
    return Image.open(io.BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN])


def fit(pixels: U8, space: Space) -> U8:
    """The largest centred square of a picture, resized to the Space's resolution.

    pixels: (H, W, 3) uint8 RGB. Returns (C, R, R) uint8; grey is ITU-R 601 luma. Resizing is Lanczos with support
    scaled to the pixels that it merges; a square that has the right size already comes back unchanged.
    """
    if space.kind != "pixel":
        raise ValueError("only a pixel space can be filled with pixels")
    image = Image.fromarray(pixels)
    if space.channels == 1:
        image = image.convert("L")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != space.resolution:
        image = image.resize((space.resolution, space.resolution), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image).reshape(*image.size, -1).transpose(2, 0, 1))


def load(uri: str, space: Space, roots: Roots, content_id: str | None = None) -> U8:
    """The picture at a uri in the Space: (C, R, R) uint8. Whatever fails raises Unusable, also another content_id."""
    try:
        with encoded(uri, roots) as data:
            if content_id not in (None, digests.of_bytes(data)):
                raise Unusable("unreadable", "its content has changed since it was first read")
            return fit(decode(data).pixels, space)
    except Exception as error:  # any file may fail in any way
        raise unusable(error) from error


def load_many(
    uris: Sequence[str], space: Space, roots: Roots, *, workers: int, ids: Sequence[str] | None = None
) -> Iterator[tuple[int, U8 | Unusable]]:
    """(index, pixels (C, R, R) uint8 or why there are none) of each uri, in order.

    ids: content ids that the pictures must have. workers: threads, or processes for many pictures, that read and decode
    ahead within a bounded window; 0 does it in this thread. The results do not depend on it, but for a picture that
    takes a process more than LIMIT_S.
    """
    look, local = partial(load_or_reason, space=space, roots=roots), not any(map(is_remote, roots.values()))
    wanted = list(zip(uris, [None] * len(uris) if ids is None else ids, strict=True))
    yield from enumerate(map_in_order(look, wanted, workers=workers, processes=local, late=_late))


def _late(_wanted: tuple[str, str | None], error: LateError) -> U8 | Unusable:
    return unusable(error)


def load_or_reason(wanted: tuple[str, str | None], space: Space, roots: Roots) -> U8 | Unusable:
    """``load`` of (uri, content id), or why there are no pixels: what processes can send."""
    try:
        return load(wanted[0], space, roots, wanted[1])
    except Unusable as error:
        return error.with_traceback(None)


def unusable(error: Exception) -> Unusable:
    """What an exception met while reading or decoding a picture says about it, without paths or line breaks."""
    if isinstance(error, Unusable):
        return error
    if isinstance(error, MemoryError):
        return Unusable("too_large", "it does not fit into memory")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return Unusable("too_large", "the file is larger than 1 GiB")
    if isinstance(error, UnidentifiedImageError):
        return Unusable("unreadable", "not a picture in a format that can be read")
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, KeyError) and error.args:
        message = str(error.args[0])  # str() would quote it
    printable = " ".join(message.encode("utf-8", "backslashreplace").decode().split())
    clear = isinstance(error, (OSError, ValueError, KeyError)) and " " in printable  # others say little without a name
    return Unusable("unreadable", (printable if clear else f"{type(error).__name__}: {printable}")[:200])


def _check_size(size: tuple[int, int], form: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        reason = f"{width} x {height} pixels; at most {MAX_PIXELS} can be used"
        raise Unusable("too_large", reason, size=size, form=form)
    if min(size) < MIN_SIDE:
        reason = f"{width} x {height} pixels; the short side must be at least {MIN_SIDE}"
        raise Unusable("too_small", reason, size=size, form=form)


def _has_more_scans(data: bytes, most: int) -> bool:
    """Whether a JPEG has more than so many scans. Bytes like a scan's marker in metadata or a trailer are none."""
    if not data.startswith(_JPEG_START) or data.count(_SCAN) <= most:  # markers are walked in odd files only
        return False
    scans, at = 0, len(_JPEG_START)
    while scans <= most and (marker := _MARKER.search(data, at)) and marker[0] != _JPEG_END:
        scans += marker[0] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")  # of the segment with these two bytes
        at = marker.end() + max(2, length)
    return scans > most


def _to_rgb(image: Image.Image) -> U8:
    """(H, W, 3) uint8 of a loaded image of any mode, converted some rows at a time: what lies between is larger."""
    convert: Callable[[Image.Image], npt.NDArray[Any]] = _rgb
    if image.mode.startswith("I") or image.mode == "F":
        convert = _deep_grey(image)
    elif image.has_transparency_data:
        convert = _over_white
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return np.ascontiguousarray(convert(image), dtype=np.uint8)
    out = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, rows):
        out[top : top + rows] = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
    return out


def _rgb(image: Image.Image) -> npt.NDArray[Any]:
    return np.asarray(image.convert("RGB"))


def _over_white(image: Image.Image) -> npt.NDArray[Any]:
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint32)
    alpha = rgba[:, :, 3:]
    return (rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255


def _deep_grey(image: Image.Image) -> Callable[[Image.Image], npt.NDArray[Any]]:
    """To 8 bits from grey of more: integers in [0, 65535] or floating point in [0, 1]."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    top = 1.0 if image.mode == "F" else 65535
    if not (low >= 0 and high <= top):  # also when not a number
        raise Unusable(
            "unreadable", f"grey values from {low:g} to {high:g} are outside [0, {top:g}]: save it as 8 bits"
        )

    def convert(strip: Image.Image) -> npt.NDArray[Any]:
        grey = np.rint(np.asarray(strip).astype(np.float64) * (255 / top)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    return convert


def _upright(pixels: U8, image: Image.Image) -> U8:
    """Apply the EXIF orientation (EXIF 2.3, tag 0x0112). Values outside 1 to 8, and damaged EXIF, change nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (metadata that cannot be read is no reason to lose the picture)
        return pixels
    if orientation not in range(2, 9):
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
