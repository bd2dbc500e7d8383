"""Pools of known damage for the proofs: zip files of uncompressed pictures, the same bytes for the same call."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ambient.curate.corruptions import parse
from ambient.curate.whole import PARTIAL
from PIL import Image

U8 = npt.NDArray[np.uint8]
NONE = "none"
"""The kind of damage that is none."""


def write_pool(folder: Path, pictures: U8, kinds: list[str], *, clean: npt.NDArray[np.bool_]) -> tuple[Path, Path]:
    """``clean.zip`` and ``pool.zip`` of pictures (N, H, W) or (N, H, W, 3): what each kind damages, in equal shares.

    clean: (N,) which pictures stay as they are. Members are named kind/number.ppm, so that the kind is the source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, others = (folder / "clean.zip", folder / "pool.zip"), np.flatnonzero(~clean)
    suffix = "pgm" if pictures.ndim == 3 else "ppm"
    for path, rows in zip(paths, (np.flatnonzero(clean), others), strict=True):
        if path.exists():
            continue
        partial = path.with_name(path.name + PARTIAL)
        with zipfile.ZipFile(partial, "w") as archive:
            for place, row in enumerate(rows.tolist()):
                kind = None if path == paths[0] else kind_at(place, kinds)
                picture = pictures[row] if kind is None else damaged(pictures[row], kind, row)
                data = io.BytesIO()
                Image.fromarray(picture).save(data, "PPM")
                name = zipfile.ZipInfo(f"{kind or 'clean'}/{row:06d}.{suffix}")  # which has a fixed date
                archive.writestr(name, data.getvalue())
        partial.replace(path)
    return paths


def kind_at(place: int, kinds: list[str]) -> str:
    """How number ``place`` is damaged: in turn, since neighbours may be of one photograph."""
    return kinds[place % len(kinds)]


def damaged(picture: U8, kind: str, number: int) -> U8:
    """(H, W) or (H, W, 3), damaged at random where the kind is random: a function of the number.

    kind: as ``corruptions.parse`` has it, or NONE.
    """
    if kind == NONE:
        return picture
    seed = int.from_bytes(hashlib.blake2b(f"{kind} {number}".encode(), digest_size=8).digest(), "little")
    colour = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    out, _ = parse(kind)(colour, np.random.default_rng(seed))
    return out if picture.ndim == 3 else out[:, :, 0]
