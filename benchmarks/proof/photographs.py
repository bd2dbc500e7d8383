"""Photographs: 64x64 crops, 10 % clean, the rest blurred and compressed in six ways.

    python benchmarks/proof/photographs.py /usr/share crops.npz    # cuts them; made once
    python benchmarks/proof/prove.py photographs --data crops.npz --images 1000000 --trainers 4 ...

cuts every photograph below the folder that is large enough (Debian's plasma-workspace-wallpapers, gnome-backgrounds,
mate-backgrounds and ukui-wallpapers have some) at half of its size: clean crops without the camera's or the encoder's
own damage. Crops that are smooth, as drawings are, are left out. Of every eleventh photograph all crops are kept out of
training: denoising is measured on them, and the reference is the other crops, undamaged. Features: ``texture``, since
there are no labels.
"""

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pools import NONE, U8
from tasks import UNDAMAGED, Job, Proof

SIDE = 64
NUM_PICTURES = None  # all crops in the file
SETTINGS = ("network.channels=32", "network.multipliers=1,2,2,4", "batch_size=128", "P_mean=-0.4")
KINDS = ["blur-0.6", "blur-1.2", "blur-2.4", "jpeg-50", "jpeg-25", "jpeg-10"]
FIVE = "mixed-5-folds"
_CLEAN_SHARE = 0.1
_MOST = 6_000  # crops; they must be carried
_REDUCED = 2  # times per side, which removes most of what the encoder did
_STEEP, _STEEP_SHARE = 1.5, 0.5  # grey levels between neighbours; share of the crop that must be as steep: no drawings
_HELD_OUT = 11  # every so many photographs
_MOST_OF_ONE = 150  # crops of one photograph


def open_proof(data: Path, most: int | None) -> Proof:
    """The proof on the crops in a file. most: take fewer, to try it out."""
    with np.load(data) as arrays:
        pictures, held_out = arrays["pictures"][:most], arrays["held_out"][:most]
    taught = pictures[~held_out]
    clean = np.zeros(len(taught), dtype=bool)
    clean[np.random.default_rng(0).permutation(len(taught))[: round(_CLEAN_SHARE * len(taught))]] = True
    return Proof(
        name="photographs",
        pictures=taught,
        clean=clean,
        held_out=pictures[held_out],
        rows={"mixed": KINDS, FIVE: KINDS, UNDAMAGED: [NONE]},
        folds={FIVE: 5},
        jobs=jobs(),
        extractor="texture",
        settings=SETTINGS,
    )


def jobs() -> list[Job]:
    """Seed by seed; of what undamaged ones would give, the paper's draw, one for all and all as equal, one seed.

    Few clean pictures make a weak classifier, which learns from half of them: FIVE is the same pool, annotated by five
    that each learn from four fifths.
    """
    found = []
    for seed in range(3):
        found += [Job(row="mixed", label=label, seed=seed) for label in ("clean", "kept", "source", "hi")]
        found += [Job(row=FIVE, label=label, seed=seed) for label in ("kept", "hi")]
        if seed == 0:
            found += [Job(row=UNDAMAGED, label=UNDAMAGED, seed=0)]
            found += [Job(row="mixed", label=label, seed=0) for label in ("kept-plain", "all", "fixed", "ambient")]
    return found


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
    write_crops(Path(sys.argv[1]), Path(sys.argv[2]), _MOST)
