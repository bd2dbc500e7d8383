"""What a trainer sees of a picture: itself, itself at its trust level, and a clean one at that level."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...schemas.manifest import Metadata
from ...schemas.space import Space
from ..images import U8, Unusable, decode, fit, unusable
from ..noise import Purpose, names_of, normals
from ..parallel import map_in_order
from ..pool import content_id
from ..query import rows_of
from ..threshold import fit_of
from ..units import to_uint8, to_unit
from ..uris import Roots, encoded

MAX_SIDE = 128
"""Of an embedded picture. Of a larger one the centre is cut out: shrinking it would remove noise."""

_LOSSLESS_SIDE = 64
_QUALITY = 88
_WORKERS = 4
_THUMB = 4  # side of the thumbnails by which pictures are compared

Row = dict[str, Any]
Thumb = NDArray[np.float64]


def pictures(
    uris: list[str], trusted: set[str], references: list[str], manifest: Path, metadata: Metadata, roots: Roots
) -> list[Row]:
    """One dictionary per uri: row, curve, fit, image, noisy, clean, clean_uri, problem.

    row: the manifest's, without curves; curve, fit: p_clean and its fit, or None. image: data URI, or None and
    ``problem`` says why. For the uris in ``trusted`` also noisy: the picture with its own fixed noise (that of
    training seed 0) at its sigma_min, and clean: the most similar of the references with that noise.
    """
    space = metadata.space
    shown = space if space.kind == "pixel" else Space(resolution=MAX_SIDE)
    rows = _rows([*uris, *references], manifest)
    loaded = _load_all([*uris, *references], rows, shown, roots)
    clean = {uri: x for uri in references if not isinstance(x := loaded[uri], Unusable)}
    thumbs = {uri: thumb(pixels) for uri, pixels in clean.items()}
    out = []
    for uri in uris:
        found, row = loaded[uri], rows[uri]
        picture = {"row": row, **_curve(row, metadata), "image": None, "problem": None}
        if isinstance(found, Unusable):
            picture["problem"] = found.reason
        else:
            picture["image"] = encode(found)
            if uri in trusted and space.kind == "pixel":
                picture["noisy"] = encode(noised(found, row["id"], row["sigma_min"], space))
                if like := most_similar(thumb(found), {u: t for u, t in thumbs.items() if u != uri}):
                    noisy = noised(clean[like], row["id"], row["sigma_min"], space)
                    picture |= {"clean": encode(noisy), "clean_uri": like}
        out.append(picture)
    return out


def noised(pixels: U8, picture_id: str, sigma: float, space: Space) -> U8:
    """A picture, (C, R, R) uint8, with the fixed noise of the picture with this id at noise level sigma.

    Scaled as EDM's network sees it, c_in (arXiv 2206.00364, table 1), and back to the contrast of the data: the
    noise of high levels would otherwise be cut off at black and white.
    """
    z = normals(names_of([picture_id]), pixels.size, seed=0, purpose=Purpose.FIXED).view(space.shape)
    x = to_unit(torch.tensor(pixels)) + sigma * z
    scaled: Tensor = x * (space.sigma_data / float(np.hypot(sigma, space.sigma_data)))
    seen: U8 = to_uint8(scaled).numpy()
    return seen


def encode(pixels: U8) -> str:
    """A data URI of the centre of (C, R, R) uint8: PNG up to 64 pixels, else JPEG without loss of colour detail."""
    edge = max(0, pixels.shape[1] - MAX_SIDE) // 2
    centre = pixels[:, edge : edge + MAX_SIDE, edge : edge + MAX_SIDE].transpose(1, 2, 0)
    image, out = Image.fromarray(np.ascontiguousarray(centre.squeeze())), io.BytesIO()
    if image.width <= _LOSSLESS_SIDE:
        image.save(out, form := "png", optimize=True)
    else:
        image.save(out, form := "jpeg", quality=_QUALITY, subsampling=0)
    return f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"


def most_similar(mine: Thumb, others: dict[str, Thumb]) -> str | None:
    """The uri of the nearest thumbnail, if any: of two pictures that are alike, the damage is what differs most."""
    return min(others, key=lambda uri: float(np.square(others[uri] - mine).sum()), default=None)


def thumb(pixels: U8) -> Thumb:
    """(C, 4, 4) means of the blocks of a picture, (C, R, R)."""
    side = pixels.shape[1] // _THUMB * _THUMB
    blocks = pixels[:, :side, :side].reshape(len(pixels), _THUMB, side // _THUMB, _THUMB, side // _THUMB)
    means: Thumb = blocks.mean(axis=(2, 4))
    return means


def _rows(uris: list[str], manifest: Path) -> dict[str, Row]:
    table = rows_of(manifest, pa.array(uris, pa.string()))
    return {row["uri"]: row for row in table.to_pylist()}


def _curve(row: Row, metadata: Metadata) -> Row:
    """Takes the lists out of the row; p_clean, and the fit on which its threshold was decided."""
    p_clean, draws = row.pop("p_clean"), row.pop("draws")
    if p_clean is None:
        return {"curve": None, "fit": None}
    return {"curve": p_clean, "fit": fit_of(p_clean, draws, metadata)}


def _load_all(uris: list[str], rows: dict[str, Row], space: Space, roots: Roots) -> dict[str, U8 | Unusable]:
    distinct = list(dict.fromkeys(uris))

    def load(uri: str) -> U8 | Unusable:
        try:
            with encoded(uri, roots) as data:
                if content_id(data) != rows[uri]["id"]:
                    return Unusable("unreadable", "its content is not what was annotated")
                return fit(decode(data).pixels, space)
        except Exception as error:  # noqa: BLE001 (any file may fail in any way; the page says so)
            return unusable(error).with_traceback(None)

    return dict(zip(distinct, map_in_order(load, distinct, workers=_WORKERS), strict=True))
