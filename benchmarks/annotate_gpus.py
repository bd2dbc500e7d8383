"""Several GPUs on one pool: the same manifest as one, and how much faster.

    python benchmarks/annotate_gpus.py FOLDER [PICTURES [DEVICE [RESOLUTION]]]

Annotates the pool of `python benchmarks/annotate.py` (in FOLDER; default 50,000 pictures) with one process, which
trains the classifier; then again with one process and with one for each GPU (on a CPU two) under torchrun, both with
that classifier; and prints the largest difference of ln sigma_min, and the seconds of each.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from ambient.curate.annotate import AnnotateConfig, annotate
from annotate import cores, write_pool

CHILD = "annotate"


def main() -> None:
    folder = Path(sys.argv[1])
    count, device, side = (
        int((sys.argv[2:] or [50_000])[0]),
        (sys.argv[3:] or ["cuda"])[0],
        int((sys.argv[4:] or [32])[0]),
    )
    processes = torch.cuda.device_count() if device == "cuda" else 2
    pool, clean = write_pool(folder, count, side)
    asked = [str(pool), str(clean), str(side), device]
    first, one, many = (folder / f"{name}.parquet" for name in ("first", "one", "many"))
    run([*asked, str(first)], 1)
    seconds = {n: run([*asked, str(out), f"{first}.classifier"], n) for n, out in ((1, one), (processes, many))}
    print(
        f"{torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}, {cores()} cores, PyTorch {torch.__version__}"
    )
    compare(one, many)
    print(", ".join(f"{n} process{'es' * (n > 1)}: {seconds[n]:.1f} s" for n in seconds))


def run(words: list[str], processes: int) -> float:
    """Seconds of an annotation in so many processes, each with its part of the cores."""
    started = time.perf_counter()
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(cores() // processes, 1))}
    subprocess.run([sys.executable, *launcher, __file__, CHILD, *words], check=True, env=environment)
    return time.perf_counter() - started


def child(pool: str, clean: str, side: str, device: str, out: str, *classifier: str) -> None:
    """Annotate, as ``ambient annotate``."""
    given = Path(classifier[0]) if classifier else None
    config = AnnotateConfig(clean=Path(clean), resolution=int(side), classifier=given)
    annotate(Path(pool), Path(out), config, device=device, workers=cores(), overwrite=True)


def compare(one: Path, many: Path) -> None:
    """Print how far the thresholds of two manifests are apart; exit where they are of other pictures."""
    a, b = (pq.read_table(path, columns=["uri", "sigma_min"]).sort_by("uri") for path in (one, many))
    if a["uri"] != b["uri"]:
        sys.exit("the two manifests are of other pictures")
    low, high = (table["sigma_min"].to_numpy() for table in (a, b))
    some = np.isfinite(low) & (low > 0)
    if not ((low == high) | np.isnan(low) & np.isnan(high) | some).all():
        sys.exit("a picture is usable in one manifest only")
    apart = np.abs(np.log(high[some] / low[some]))
    print(f"{len(low):,} rows, {some.sum():,} above 0: largest difference of ln sigma_min {apart.max():.2g}")


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1] == CHILD else main()
