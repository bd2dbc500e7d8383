"""Does it help? 64x64 crops of photographs: 10 % clean, the rest blurred and compressed.

    python benchmarks/proof/photographs.py crop --data /usr/share --work /tmp/photographs    # where the pictures are
    python benchmarks/proof/photographs.py mixed --data crops.npz --work /tmp/photographs    # where the GPU is

``crop`` cuts every photograph below --data that is large enough (Debian's plasma-workspace-wallpapers,
gnome-backgrounds, mate-backgrounds and ukui-wallpapers have some) at half of its size into crops.npz in --work:
clean crops without the camera's or the encoder's own damage. Crops that are smooth, as drawings are, are left out. Of
every eleventh photograph all crops are kept out of training: denoising is measured on them, and the reference is the
other crops, undamaged. Features: ``texture``, since there are no labels.
"""

import argparse
import hashlib
import re
import time
from pathlib import Path

import numpy as np
import torch
from ambient.curate.device import choose_device
from ambient.train.evaluate.distances import moments
from ambient.train.evaluate.extractors import features_of, open_extractor
from ambient.train.evaluate.judge import Judge
from ambient.train.evaluate.reference import MOST_IN_PAIRS, Reference
from PIL import Image
from pools import U8, write_pool
from prove import Row, arguments, prove, standard_jobs, training

SIDE = 64
KINDS = ["blur-0.6", "blur-1.2", "blur-2.4", "jpeg-50", "jpeg-25", "jpeg-10"]
CROPS = "crops.npz"
CLEAN_SHARE = 0.1
_REDUCED = 2  # times per side, which removes most of what the encoder did
_STEEP, _STEEP_SHARE = 1.5, 0.5  # grey levels between neighbours; share of the crop that must be as steep: no drawings
_HELD_OUT = 11  # every so many photographs
_MOST_OF_ONE = 150  # crops of one photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", help="crop, or mixed, or corruptions with commas")
    arguments(parser)
    parser.add_argument("--most", type=int, default=6_000, help="crops; they must be carried")
    options = parser.parse_args()
    options.begin = time.monotonic()
    if options.row == "crop":
        write_crops(options.data, options.work / CROPS, options.most)
        return
    row, judge = prepare(options)
    prove(row, standard_jobs(row, options.work, options), judge, training(options, resolution=SIDE), options)


def prepare(options: argparse.Namespace) -> tuple[Row, Judge]:
    with np.load(options.data) as arrays:
        pictures, held_out = arrays["pictures"], arrays["held_out"]
    if options.pool_size:
        pictures, held_out = pictures[: options.pool_size], held_out[: options.pool_size]
    taught = pictures[~held_out]
    clean = np.zeros(len(taught), dtype=bool)
    clean[np.random.default_rng(0).permutation(len(taught))[: round(CLEAN_SHARE * len(taught))]] = True
    kinds = KINDS if options.row == "mixed" else options.row.split(",")
    folder = options.work / "pools" / f"photographs-{len(taught)}-{options.row}"
    clean_zip, pool_zip = write_pool(folder, taught, kinds, clean=clean)
    row = Row(proof="photographs", name=options.row, pool=pool_zip, clean=clean_zip, channels=3, resolution=SIDE)
    return row, judge_of(options, taught, pictures[held_out], clean)


def judge_of(options: argparse.Namespace, taught: U8, held_out: U8, clean: np.ndarray) -> Judge:
    extractor = open_extractor("texture", choose_device(options.device))
    real, validated = (torch.from_numpy(some).permute(0, 3, 1, 2).contiguous() for some in (taught, held_out))
    features = features_of(real, extractor)
    return Judge(
        extractor=extractor,
        reference=Reference(moments=moments(features), features=features[:MOST_IN_PAIRS]),
        fingerprint=hashlib.blake2b(taught.tobytes(), digest_size=16).hexdigest(),
        real=real[:MOST_IN_PAIRS],
        held_out=validated,
        names=torch.arange(len(validated)),
        labels=torch.full((len(validated),), -1),
        trained_on=real[torch.from_numpy(clean)],
        num=options.samples,
    )


def write_crops(data: Path, out: Path, most: int) -> None:
    """(N, 64, 64, 3) uint8 ``pictures`` and (N,) ``held_out``; of too many crops some at random."""
    crops: list[U8] = []
    photographs: list[int] = []
    random = np.random.default_rng(0)
    for number, path in enumerate(largest_of_each(data)):
        with Image.open(path) as opened:
            if min(opened.size) < _REDUCED * 2 * SIDE:
                continue
            pixels = np.asarray(opened.convert("RGB").reduce(_REDUCED))
        corners = [
            (top, left)
            for top in range(0, pixels.shape[0] - SIDE + 1, SIDE)
            for left in range(0, pixels.shape[1] - SIDE + 1, SIDE)
        ]
        found = [pixels[top : top + SIDE, left : left + SIDE] for top, left in corners]
        found = [crop for crop in found if steep_share(crop) >= _STEEP_SHARE]
        some = random.permutation(len(found))[:_MOST_OF_ONE]
        crops += [found[i] for i in some]
        photographs += [number] * len(some)
    chosen = np.sort(random.permutation(len(crops))[:most])
    held_out = np.array(photographs)[chosen] % _HELD_OUT == 0
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, pictures=np.stack(crops)[chosen], held_out=held_out)
    size = out.stat().st_size / 2**20
    print(f"{len(chosen):,} of {len(crops):,} crops of {len(set(photographs))} photographs in {out} ({size:.1f} MiB)")


def largest_of_each(data: Path) -> list[Path]:
    """Picture files below a folder; of those in one folder that are named by size, as 1920x1080, the largest."""
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    groups: dict[Path, list[Path]] = {}
    for path in sorted(path for path in data.rglob("*") if path.suffix.lower() in kinds and path.is_file()):
        groups.setdefault(path.parent if re.fullmatch(r"\d+x\d+\D*", path.stem) else path, []).append(path)
    return [max(paths, key=lambda path: path.stat().st_size) for paths in groups.values()]


def steep_share(crop: U8) -> float:
    """Share of the pixels that differ from a neighbour by more than _STEEP grey levels."""
    grey = crop.astype(np.float32).mean(axis=2)
    steep = np.maximum(np.abs(np.diff(grey, axis=0))[:, :-1], np.abs(np.diff(grey, axis=1))[:-1])
    return float((steep > _STEEP).mean())


if __name__ == "__main__":
    main()
