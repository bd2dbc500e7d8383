"""Pictures with known damage for benchmarks/annotation.py: Gaussian fields, Fashion-MNIST, scikit-image's photographs.

One npz file each: pictures (N, C, 32, 32) uint8, kinds (N,) ``clean`` or the name of the damage, names (N,) int64 of
their noise. No picture is in it twice, damaged in two ways or whole.
"""

import gzip
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

KINDS = (
    *("blur-0.4", "blur-0.6", "blur-0.8", "blur-1"),
    *("jpeg-90", "jpeg-75", "jpeg-50", "jpeg-25", "jpeg-15"),
    *("motion-2", "motion-4", "motion-8"),
)
"""From weak to strong within each."""

_CLEAN_SHARE = 4  # as many times as there are of each kind
_IDX_HEADER = 16
_CONTRAST = 0.25  # standard deviation of the fields: little is clipped to 8 bits

U8 = np.ndarray[Any, np.dtype[np.uint8]]


def prepare(out: Path, fashion: Path | None, num: int) -> None:
    """Write OUT/fields.npz, photographs.npz and, where there is a folder, fashion.npz. num: pictures per kind."""
    out.mkdir(parents=True, exist_ok=True)
    sets = {"fields": _fields(num * (len(KINDS) + _CLEAN_SHARE)), "photographs": _photographs()}
    if fashion is not None:
        sets["fashion"] = _fashion(fashion)
    for name, pictures in sets.items():
        damaged, kinds = _damaged(pictures, num)
        path = out / f"{name}.npz"
        np.savez_compressed(path, pictures=damaged, kinds=kinds, names=_names(damaged))
        print(f"{path}: {len(kinds):,} pictures, {(kinds == 'clean').sum():,} clean, {path.stat().st_size >> 20} MiB")


def _damaged(pictures: U8, num: int) -> tuple[U8, np.ndarray[Any, Any]]:
    """Shuffled and shared out: at most num of each kind, and four times as many clean ones. (N, H, W, C) in."""
    from ambient.curate.corruptions import parse

    random = np.random.default_rng(0)
    pictures = pictures[random.permutation(len(pictures))]
    each = min(num, len(pictures) // (len(KINDS) + _CLEAN_SHARE))
    kinds = np.repeat(KINDS, each)
    kinds = np.concatenate([kinds, np.full(_CLEAN_SHARE * each, "clean")])
    out = pictures[: len(kinds)].copy()
    for i, kind in enumerate(kinds):
        if kind != "clean":
            colour = np.broadcast_to(out[i], (*out.shape[1:3], 3))
            out[i] = parse(kind)(colour, random)[0][..., : out.shape[3]]
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2)), kinds


def _names(pictures: U8) -> np.ndarray[Any, np.dtype[np.int64]]:
    digests = [hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in pictures]
    return np.frombuffer(b"".join(digests), "<i8")


def _fields(num: int) -> U8:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from fields import Fields

    drawn = Fields(resolution=32, sigma_data=_CONTRAST).draw(num, seed=0)
    levels = (drawn.clamp(-1, 1) * 127.5 + 127.5).round().byte()
    return levels.permute(0, 2, 3, 1).numpy()


def _fashion(folder: Path) -> U8:
    """The 28x28 pictures of the training set, in a black border of two pixels."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        data = np.frombuffer(file.read(), np.uint8, offset=_IDX_HEADER).reshape(-1, 28, 28)
    return np.pad(data, ((0, 0), (2, 2), (2, 2)))[..., None]


def _photographs() -> U8:
    from ambient.train.demo import cut
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        cut(Path(folder))
        paths = sorted(Path(folder).rglob("*.png"))
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
