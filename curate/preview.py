"""A contact sheet of a choice by rank: the best pictures, those on both sides of the border, and the worst."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .images import Unusable, decode
from .parallel import map_in_order
from .uris import Roots, encoded
from .whole import replacing

_COLUMNS, _ROWS = 8, 2  # of each of the four parts
_THUMB, _GAP, _TITLE = 128, 6, 26  # pixels
_PAPER, _INK, _MISSING = (24, 24, 24), (235, 235, 235), (90, 30, 30)


def write_preview(
    path: Path, records: pa.Table, chosen: NDArray[np.bool_], rank: NDArray[np.float64], roots: Roots, *, workers: int
) -> None:
    """Write the sheet as PNG. records: (N,) rows; chosen: (N,); rank: (N,) of usable rows above 0, higher is better.

    Small pictures are enlarged without smoothing, so that their pixels show; a number is the rank.
    """
    order = np.lexsort((np.arange(len(rank)), -rank))
    order = order[rank[order] > 0]
    inside, outside = order[chosen[order]], order[~chosen[order]]
    count = _COLUMNS * _ROWS
    parts = {
        f"the best of {len(inside):,} chosen": inside[:count],
        "the last of them": inside[-count:],
        f"the first of {len(outside):,} not chosen": outside[:count],
        "the worst": outside[-count:],
    }
    places = np.concatenate(list(parts.values()))
    uris = records["uri"].take(pa.array(places)).to_pylist()
    thumbs = dict(
        zip(places.tolist(), map_in_order(lambda uri: _thumb(uri, roots), uris, workers=workers), strict=True)
    )
    side, part_height = _THUMB + _GAP, _TITLE + _ROWS * (_THUMB + _GAP)
    sheet = Image.new("RGB", (_COLUMNS * side + _GAP, len(parts) * part_height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (title, rows) in enumerate(parts.items()):
        top = number * part_height
        draw.text((_GAP, top + _GAP), f"{title}: rank {_span(rank[rows])}", fill=_INK, font=font)
        for index, row in enumerate(rows.tolist()):
            left, down = _GAP + index % _COLUMNS * side, top + _TITLE + index // _COLUMNS * side
            thumb = thumbs[row]
            sheet.paste(thumb, (left + (_THUMB - thumb.width) // 2, down + (_THUMB - thumb.height) // 2))
    with replacing(path) as partial:
        sheet.save(partial, "PNG")


def _thumb(uri: str, roots: Roots) -> Image.Image:
    """The picture with its longer side at _THUMB pixels; a dark red square where it cannot be read any more."""
    try:
        with encoded(uri, roots) as data:
            image = Image.fromarray(decode(data).pixels)
    except (Unusable, OSError, KeyError, RuntimeError):
        return Image.new("RGB", (_THUMB, _THUMB), _MISSING)
    factor = _THUMB / max(image.size)
    size = tuple(max(1, round(length * factor)) for length in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)


def _span(rank: NDArray[np.float64]) -> str:
    return f"{rank.max():.3f} to {rank.min():.3f}" if len(rank) else "of none"
