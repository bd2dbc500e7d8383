"""A pool of very many tiny pictures for benchmarks/memory.py.

    python benchmarks/tiny_pool.py POOL PICTURES

PICTURES PNG files of 8x8 in ten zip files, crops of photographs with one damage each, and clean.zip with 10,000
undamaged ones. All have noise of their own, so next to none is there twice. A zip file that is there is kept.
"""

import io
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ambient.curate.whole import replacing
from annotate import cores, photographs
from PIL import Image
from scipy import ndimage

Pictures = npt.NDArray[np.float32]

SIDE, NUM_CLEAN, BATCH = 8, 10_000, 10_000
REDUCED = 4  # times, before crops are cut: so small a piece of a large photograph shows nothing
GRAIN = 2.0  # standard deviation of the noise of all, of 255
BLURS, NOISES = (0.4, 0.6, 0.8, 1.2, 2.0), (8, 12, 20, 32, 48)
DAMAGES = [("blur", blur) for blur in BLURS] + [("noise", noise) for noise in NOISES]
"""Kind and standard deviation, in pixels or of 255: one zip file each."""


def crops(random: np.random.Generator, count: int) -> Pictures:
    """(count, SIDE, SIDE, 3) in 0 to 255."""
    sheets = [np.asarray(photograph.reduce(REDUCED)) for photograph in photographs(SIDE * REDUCED)]
    out = np.empty((count, SIDE, SIDE, 3), np.float32)
    for number, sheet in enumerate(sheets):
        mine = out[number :: len(sheets)]
        windows = np.lib.stride_tricks.sliding_window_view(sheet, (SIDE, SIDE), axis=(0, 1))
        top, left = (random.integers(length, size=len(mine)) for length in windows.shape[:2])
        mine[:] = np.moveaxis(windows[top, left], 1, -1)
    return out


def damaged(pictures: Pictures, kind: str, strength: float, random: np.random.Generator) -> Pictures:
    if kind == "blur":
        return ndimage.gaussian_filter(pictures, (0, strength, strength, 0))
    return pictures + random.normal(0, strength, pictures.shape)


def write_zip(path: Path, count: int, seed: int, kind: str = "noise", strength: float = 0.0) -> None:
    """count pictures with this damage."""
    random = np.random.default_rng(seed)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for start in range(0, count, BATCH):
            pictures = damaged(crops(random, min(BATCH, count - start)), kind, strength, random)
            pictures += random.normal(0, GRAIN, pictures.shape)
            for number, pixels in enumerate(pictures.round().clip(0, 255).astype(np.uint8), start):
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "PNG", compress_level=1)
                archive.writestr(f"{number:07d}.png", data.getvalue())


def main() -> None:
    pool, count = Path(sys.argv[1]), int(sys.argv[2])
    pool.mkdir(parents=True, exist_ok=True)
    shares = np.diff(np.linspace(0, count, len(DAMAGES) + 1).astype(int)).tolist()
    wanted = [(pool / "clean.zip", NUM_CLEAN, len(DAMAGES))]
    for seed, ((kind, strength), share) in enumerate(zip(DAMAGES, shares, strict=True)):
        wanted.append((pool / f"{kind}-{strength:g}.zip", share, seed, kind, strength))
    with ProcessPoolExecutor(cores()) as processes:
        for made in [processes.submit(write_zip, *words) for words in wanted if not words[0].exists()]:
            made.result()


if __name__ == "__main__":
    main()
