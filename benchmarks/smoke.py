"""The published loss of preset ``smoke``: scikit-image's photographs, nine in ten damaged, thresholds by damage.

    python benchmarks/smoke.py

Everything is fixed: pictures, thresholds (medians that the demo's annotator found) and seed. Prints one JSON line: the
loss at the end, and when it had fallen to PUBLISHED.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from ambient import __version__
from ambient.curate.corrupt import corrupt
from ambient.curate.corruptions import parse
from ambient.curate.manifest import write_manifest
from ambient.curate.pool import find, scan, to_table
from ambient.curate.scores import SCORES
from ambient.schemas.manifest import MAIN_ROOT, Metadata, manifest_schema
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.demo import SIDE, cut
from ambient.train.loop import train
from ambient.train.run import Progress

SIGMA_MIN = {
    "clean": 0.0,
    "blur-0.6": 0.43,
    "blur-1.2": 0.63,
    "blur-2.5": 1.48,
    "jpeg-50": 0.25,
    "jpeg-25": 0.37,
    "jpeg-10": 0.46,
}
LAST = 5  # lines of the log over which the loss is averaged: 5,120 pictures
PUBLISHED = 0.18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    config = TrainConfig.from_settings(arguments.settings, preset="smoke")
    losses: list[float] = []
    reached: list[tuple[int, int]] = []  # (pictures, seconds)

    def report(progress: Progress) -> None:
        if progress.losses:
            losses.append(progress.losses.loss)
            if len(losses) >= LAST and np.mean(losses[-LAST:]) <= PUBLISHED:
                reached.append((progress.num_images, round(time.perf_counter() - begin)))
            print(progress.num_images, progress.losses.loss, progress.images_per_s, file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        manifest = prepare(Path(folder))
        begin, cpu = time.perf_counter(), time.process_time()
        train(manifest, Path(folder) / "run", config, device="cpu", report=report)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    figures = {"loss": round(float(np.mean(losses[-LAST:])), 4), "images": config.num_steps * config.batch_size}
    if reached:
        figures |= {"published": PUBLISHED, "reached_at_images": reached[0][0], "reached_at_seconds": reached[0][1]}
    times = {"seconds": round(seconds), "cpu_seconds": round(cpu_seconds), "threads": torch.get_num_threads()}
    print(json.dumps({**figures, **times, "torch": torch.__version__, "machine": platform.machine()}))


def prepare(folder: Path) -> Path:
    """The pool of the demo and a manifest with one threshold per damage."""
    cut(folder / "photographs")
    kinds = [parse(name) for name in SIGMA_MIN if name != "clean"]
    corrupt(folder / "photographs", folder / "pool", corruptions=kinds, fraction=0.9, seed=0)
    roots = {MAIN_ROOT: str((folder / "pool").resolve())}
    records = to_table(scan(find(roots), roots, workers=2))
    thresholds = pa.array([SIGMA_MIN[source] for source in records["source"].to_pylist()], pa.float32())
    clean = [threshold == 0 for threshold in thresholds.to_pylist()]
    added = {
        "p_clean": pa.nulls(len(records)),
        "draws": pa.nulls(len(records)),
        **dict.fromkeys(("sigma_min", "sigma_min_lo", "sigma_min_hi"), thresholds),
        "sigma_max": pa.array(np.zeros(len(records)), pa.float32()),
        "method": pa.array(["clean" if yes else "fixed" for yes in clean]),
    }
    for name, column in added.items():
        records = records.append_column(name, column)
    metadata = Metadata(
        space=Space(resolution=SIDE), roots=roots, fingerprint="", package_version=__version__, command="smoke"
    )
    path = folder / "manifest.parquet"
    write_manifest(path, records, manifest_schema(list(SCORES)), metadata)
    return path


if __name__ == "__main__":
    main()
