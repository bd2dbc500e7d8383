"""Fashion-MNIST at 32x32: 2 % clean, the rest damaged in one way.

The data are those of Debian's package dataset-fashion-mnist, padded to 32x32; 20,000 of its 60,000 training pictures,
for with 1,200 clean ones even undamaged pictures in place of the damaged gain little. The same 400 are clean in every
row. Frechet distance: 10,000 samples against all 20,000 undamaged, in the features of a classifier trained on the
labels of the 10,000 test pictures (fashion.safetensors), on which denoising is measured, too.

    python benchmarks/proof/fashion.py /usr/share/datasets/fashion-mnist    # trains that classifier; made once
"""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ablations import ABLATIONS
from ambient.curate.device import choose_device
from ambient.train.evaluate.labelled import accuracy, save_classifier, train_classifier
from pools import NONE, U8
from tasks import UNDAMAGED, Job, Proof

ROWS = ("blur-0.6", "blur-1.0", "blur-0.8", "blur-0.4", "jpeg-25", "motion-5", "jpeg-15", "jpeg-50")
"""In the order in which they are done."""

NUM_PICTURES = 20_000
SETTINGS = ("network.channels=32", "network.multipliers=1,2,4", "batch_size=128", "P_mean=-0.4")
CLASSIFIER = Path(__file__).parent / "fashion.safetensors"
_CLEAN_SHARE = 0.02
_SEVERAL, _ABLATED = "blur-1.0", "blur-0.6"  # rows with three seeds, and with ablations
_SEEDS = (0, 1, 2)


def open_proof(data: Path, most: int | None) -> Proof:
    """The proof on the pictures in a folder. most: take so many instead."""
    pictures = read_pictures(data, "train")[: most or NUM_PICTURES]
    return Proof(
        name="fashion",
        pictures=pictures,
        clean=clean_ones(len(pictures)),
        held_out=read_pictures(data, "t10k")[:most],
        rows={row: [row] for row in ROWS} | {UNDAMAGED: [NONE]},
        jobs=jobs(),
        extractor=str(CLASSIFIER),
        settings=SETTINGS,
        usual_size=NUM_PICTURES,
    )


def jobs() -> list[Job]:
    """What the claim stands on: three seeds of one row, and what undamaged pictures would give.

    Then a seed of each other row, the other arms, more seeds of a second row, the ablations, and more seeds of those.
    """
    ours, others = ("kept", "kept-plain"), ("fixed", "all")
    changed = [label for label in ABLATIONS if label not in ours]
    found = []
    for seed in _SEEDS:
        found += [Job(row=_ABLATED, label=label, seed=seed) for label in ("clean", *ours)]
        found += [Job(row=UNDAMAGED, label=UNDAMAGED, seed=0)] if seed == 0 else []
    found += [Job(row=_ABLATED, label=label, seed=0) for label in ("ambient", *others)]
    found += [Job(row=row, label="kept", seed=0) for row in ROWS if row != _ABLATED]
    found += [Job(row=row, label=label, seed=0) for row in ROWS if row != _ABLATED for label in others]
    found += [Job(row=_SEVERAL, label=label, seed=seed) for seed in _SEEDS[1:] for label in ("kept", *others)]
    found += [Job(row=_ABLATED, label=label, seed=0) for label in changed if label != "ambient"]
    return found + [Job(row=_ABLATED, label=label, seed=seed) for seed in _SEEDS[1:] for label in changed]


def clean_ones(num: int) -> np.ndarray:
    """(N,) bool: which of the training pictures are clean, the same in every row."""
    out = np.zeros(num, dtype=bool)
    out[np.random.default_rng(0).permutation(num)[: round(_CLEAN_SHARE * num)]] = True
    return out


def write_classifier(
    data: Path, out: Path, device: torch.device, *, change: Callable[[U8], U8] = lambda pictures: pictures
) -> None:
    """Train on the test pictures, changed, and say how well it does on the training pictures."""
    test, train = (torch.from_numpy(change(read_pictures(data, part)))[:, None] for part in ("t10k", "train"))
    labels, others = (torch.from_numpy(read_labels(data, part)) for part in ("t10k", "train"))
    network = train_classifier(test, labels, epochs=15, seed=0, device=device)
    save_classifier(out, network)
    print(f"accuracy on the 60,000 training pictures: {accuracy(network, train, others):.4f}")


def read_pictures(data: Path, part: str) -> U8:
    """(N, 32, 32) uint8, padded with 0. part: ``train`` or ``t10k``."""
    raw = gzip.decompress((data / f"{part}-images-idx3-ubyte.gz").read_bytes())
    return np.pad(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))


def read_labels(data: Path, part: str) -> np.ndarray:
    """(N,) int64."""
    raw = gzip.decompress((data / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)


if __name__ == "__main__":
    write_classifier(Path(sys.argv[1]), CLASSIFIER, choose_device("auto"))
