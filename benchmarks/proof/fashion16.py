"""Fashion-MNIST at 16x16, for machines without a GPU: 20,000 pictures, 2 % of them clean, a network of 0.1 M weights.

The pictures of fashion.py at half of its size; the features, likewise, are of a classifier trained on the labels of the
10,000 test pictures (fashion16.safetensors).

    python benchmarks/proof/fashion16.py /usr/share/datasets/fashion-mnist    # trains that classifier; made once
"""

import sys
from pathlib import Path

import fashion
import numpy as np
from ambient.curate.device import choose_device
from pools import NONE, U8
from tasks import UNDAMAGED, Job, Proof

ROWS = ("blur-0.6", "blur-1.0")
NUM_PICTURES = 20_000
SETTINGS = (
    *("network.channels=16", "network.multipliers=1,2", "network.blocks=1", "network.dropout=0.1"),
    *("network.augment_dim=0", "augment=0", "batch_size=128", "lr=2e-3", "warmup_images=5000"),
)
CLASSIFIER = Path(__file__).parent / "fashion16.safetensors"
_SEEDS = (0, 1, 2)


def open_proof(data: Path, most: int | None) -> Proof:
    """The proof on the pictures in a folder. most: take fewer, to try it out."""
    pictures = halved(fashion.read_pictures(data, "train")[: most or NUM_PICTURES])
    return Proof(
        name="fashion16",
        pictures=pictures,
        clean=fashion.clean_ones(len(pictures)),
        held_out=halved(fashion.read_pictures(data, "t10k")[:most]),
        rows={row: [row] for row in ROWS} | {UNDAMAGED: [NONE]},
        jobs=jobs(),
        extractor=str(CLASSIFIER),
        settings=SETTINGS,
        usual_size=NUM_PICTURES,
    )


def jobs() -> list[Job]:
    """Seed by seed, the first row first; a seed of what is far behind is enough."""
    first = ("clean", "ambient", "kept-plain", "plain")
    found = [Job(row=ROWS[0], label=label, seed=0) for label in (*first, "kept", "fixed", "all")]
    found += [Job(row=UNDAMAGED, label=UNDAMAGED, seed=0)]
    found += [Job(row=ROWS[0], label=label, seed=seed) for seed in _SEEDS[1:] for label in first]
    found += [Job(row=ROWS[1], label=label, seed=0) for label in ("ambient", "all", "fixed")]
    return found + [Job(row=ROWS[1], label="ambient", seed=seed) for seed in _SEEDS[1:]]


def halved(pictures: U8) -> U8:
    """(N, 32, 32) -> (N, 16, 16): means of four pixels."""
    quarters = pictures.reshape(len(pictures), 16, 2, 16, 2).astype(np.uint16).sum(axis=(2, 4))
    return ((quarters + 2) // 4).astype(np.uint8)


if __name__ == "__main__":
    fashion.write_classifier(Path(sys.argv[1]), CLASSIFIER, choose_device("auto"), change=halved)
