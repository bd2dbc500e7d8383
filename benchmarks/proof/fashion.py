"""Does it help? Fashion-MNIST at 32x32: 2 % clean, the rest damaged in one way.

    python benchmarks/proof/fashion.py blur-1.0 --data /usr/share/datasets/fashion-mnist --work /tmp/fashion
    python benchmarks/proof/fashion.py classifier --data ... --work ...      # made once, kept in this folder

One call works on one row for --seconds and records each finished (arm, seed) under results/; later calls add to it, and
several may run at once, each with its own --arms or --seeds, after one with --arms "" has written and annotated the
pool. The manifests in WORK/manifests are worth keeping: with them nothing is annotated again.

The data are those of Debian's package dataset-fashion-mnist, padded to 32x32. The same 1,200 of the 60,000 training
pictures are clean in every row. Frechet distance: 10,000 samples against all 60,000 undamaged training pictures, in the
features of a classifier trained on the labels of the 10,000 test pictures (fashion.safetensors), on which denoising is
measured, too.
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from ambient.curate.device import choose_device
from ambient.curate.pool import content_id
from ambient.train.evaluate.distances import moments
from ambient.train.evaluate.extractors import features_of, open_extractor
from ambient.train.evaluate.judge import Judge
from ambient.train.evaluate.labelled import accuracy, save_classifier, train_classifier
from ambient.train.evaluate.reference import MOST_IN_PAIRS, Reference
from pools import U8, write_pool
from prove import Row, arguments, prove, standard_jobs, training

ROWS = ("blur-0.4", "blur-0.6", "blur-0.8", "blur-1.0", "jpeg-15", "jpeg-25", "jpeg-50", "motion-5")
CLASSIFIER = Path(__file__).parent / "fashion.safetensors"
CLEAN_SHARE = 0.02
_VALIDATED = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", help=f"classifier, or {', '.join(ROWS)}, or kind-strength of ambient corrupt")
    arguments(parser)
    options = parser.parse_args()
    options.begin = time.monotonic()
    if options.row == "classifier":
        write_classifier(options.data, choose_device(options.device))
        return
    row, judge = prepare(options.row, options)
    prove(row, standard_jobs(row, options.work, options), judge, training(options), options)


def prepare(kind: str, options: argparse.Namespace) -> tuple[Row, Judge]:
    """The row's pool, written if it is not there, and what its runs are measured against."""
    pictures = read_pictures(options.data, "train")
    if options.pool_size:
        pictures = pictures[: options.pool_size]
    clean = clean_ones(len(pictures))
    folder = options.work / "pools" / f"fashion-{len(pictures)}-{kind}"
    clean_zip, pool_zip = write_pool(folder, pictures, [kind], clean=clean)
    row = Row(proof="fashion", name=kind, pool=pool_zip, clean=clean_zip, channels=1, resolution=32)
    return row, judge_of(options, pictures, clean)


def judge_of(options: argparse.Namespace, pictures: U8, clean: np.ndarray) -> Judge:
    extractor = open_extractor(str(CLASSIFIER), choose_device(options.device))
    real = torch.from_numpy(pictures)[:, None]
    features = features_of(real, extractor)
    test = read_pictures(options.data, "t10k")[:_VALIDATED]
    return Judge(
        extractor=extractor,
        reference=Reference(moments=moments(features), features=features[:MOST_IN_PAIRS]),
        fingerprint=content_id(pictures.tobytes()),
        real=real[:MOST_IN_PAIRS],
        held_out=torch.from_numpy(test)[:, None],
        names=torch.arange(len(test)),
        labels=torch.full((len(test),), -1),
        trained_on=real[torch.from_numpy(clean)],
        num=options.samples,
    )


def clean_ones(num: int) -> np.ndarray:
    """(num,) which pictures are clean: the same in every row."""
    out = np.zeros(num, dtype=bool)
    out[np.random.default_rng(0).permutation(num)[: round(CLEAN_SHARE * num)]] = True
    return out


def write_classifier(data: Path, device: torch.device) -> None:
    """Train on the test pictures and say how well it does on the training pictures."""
    test, train = (torch.from_numpy(read_pictures(data, part))[:, None] for part in ("t10k", "train"))
    labels, others = (torch.from_numpy(read_labels(data, part)) for part in ("t10k", "train"))
    network = train_classifier(test, labels, epochs=15, seed=0, device=device)
    save_classifier(CLASSIFIER, network)
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
    main()
