"""A little pool of real photographs: 16x16 tiles, clean and blurred, from the pictures inside scikit-image's wheel."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageFilter

SIDE = 16
BLURS = {"soft": 0.8, "blurred": 2.0}
"""Folder of the pool -> standard deviation of its Gaussian blur in pixels."""


def tiles(count: int, seed: int = 0) -> list[Image.Image]:
    """count different tiles with some contrast."""
    random = np.random.default_rng(seed)
    photographs = [Image.fromarray(getattr(skimage.data, name)()).reduce(2) for name in ("astronaut", "coffee")]
    seen, out = set(), []
    while len(out) < count:
        photograph = photographs[len(out) % len(photographs)]
        left, top = (int(random.integers(length // 8 - 2)) * 8 for length in photograph.size)
        corner = (left, top)
        tile = photograph.crop((left, top, left + SIDE, top + SIDE))
        if (id(photograph), corner) not in seen and np.asarray(tile).std() > 8:
            seen.add((id(photograph), corner))
            out.append(tile)
    return out


def write_photo_pool(pool: Path, *, clean: int = 60, per_blur: int = 40, seed: int = 0) -> Path:
    """Folders ``clean``, ``soft`` and ``blurred`` of PNG files, no tile in two of them."""
    counts = {"clean": clean, **dict.fromkeys(BLURS, per_blur)}
    supply = iter(tiles(sum(counts.values()), seed))
    for folder, count in counts.items():
        (pool / folder).mkdir(parents=True)
        for number in range(count):
            tile = next(supply)
            if folder in BLURS:
                tile = tile.filter(ImageFilter.GaussianBlur(BLURS[folder]))
            tile.save(pool / folder / f"{number:03d}.png")
    return pool
