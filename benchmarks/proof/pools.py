"""Pools of known damage for the proofs: zip files of uncompressed pictures, the same bytes for the same call."""

import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ambient.curate.corruptions import parse
from ambient.curate.whole import PARTIAL
from PIL import Image

U8 = npt.NDArray[np.uint8]


def write_pool(folder: Path, pictures: U8, kinds: list[str], *, clean: U8, workers: int = 16) -> tuple[Path, Path]:
    """``clean.zip`` and ``pool.zip`` of pictures (N, H, W) or (N, H, W, 3): what each kind damages, in equal shares.

    clean: (N,) which pictures stay as they are. Members are named kind/number.ppm, so that the kind is the source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    damaged = np.flatnonzero(~clean)
    kind_of = {int(row): kinds[place * len(kinds) // len(damaged)] for place, row in enumerate(damaged)}

    def encoded(row: int) -> tuple[str, bytes]:
        picture, kind = _rgb(pictures[row]), kind_of.get(row)
        if kind is not None:
            seed = int.from_bytes(hashlib.blake2b(f"{kind} {row}".encode(), digest_size=8).digest(), "little")
            picture, _ = parse(kind)(picture, np.random.default_rng(seed))
        grey = pictures.ndim == 3
        data = io.BytesIO()
        Image.fromarray(picture[:, :, 0] if grey else picture).save(data, "PPM")
        return f"{kind or 'clean'}/{row:06d}.{'pgm' if grey else 'ppm'}", data.getvalue()

    paths = folder / "clean.zip", folder / "pool.zip"
    with ThreadPoolExecutor(workers) as threads:
        for path, rows in zip(paths, (np.flatnonzero(clean), damaged), strict=True):
            if path.exists():
                continue
            partial = path.with_name(path.name + PARTIAL)
            with zipfile.ZipFile(partial, "w") as archive:
                for name, data in threads.map(encoded, rows.tolist()):
                    archive.writestr(zipfile.ZipInfo(name), data)  # which has a fixed date
            partial.replace(path)
    return paths


def _rgb(picture: U8) -> U8:
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
