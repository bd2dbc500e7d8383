"""What becomes of pictures that are really clean among the unlabelled ones? One flat folder, three in ten undamaged.

    python benchmarks/annotation_hidden.py runs/annotation/fashion.npz -o docs/annotation/hidden-fashion.json

DATA is what ``annotation.py prepare`` wrote. Half of its clean pictures are the clean set; the folder, of one source,
holds others of them and those with blur 0.6, 0.8 and 1. It goes through `ambient annotate` with its defaults.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from ambient.curate.annotate import AnnotateConfig, annotate
from ambient.curate.device import choose_device
from ambient.curate.reporter import Reporter
from PIL import Image

BLURS = ("blur-0.6", "blur-0.8", "blur-1")
SHARE = 0.3  # of the folder, undamaged
MOST = 700  # pictures of each blur


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        measured = hidden(options.data, Path(folder), options.device)
    about = {
        "kind": "hidden",
        "command": shlex.join(["python", "benchmarks/annotation_hidden.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}",
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": round(time.perf_counter() - since),
    }
    options.out.write_text(json.dumps({**about, "data": options.data.stem, **measured}, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


def hidden(data: Path, folder: Path, device: str) -> dict[str, Any]:
    """sigma_min of the undamaged and of the blurred pictures of a folder that does not tell them apart."""
    with np.load(data) as stored:
        pictures, kinds = stored["pictures"].transpose(0, 2, 3, 1), stored["kinds"]
    blurred = {kind: np.flatnonzero(kinds == kind)[:MOST] for kind in BLURS}
    clean = np.flatnonzero(kinds == "clean")
    others = round(SHARE / (1 - SHARE) * sum(map(len, blurred.values())))
    known, whole = clean[: len(clean) // 2], clean[len(clean) // 2 :][:others]
    write(folder / "clean", {"known": known}, pictures)
    write(folder / "pool", {"whole": whole, **blurred}, pictures)
    config = AnnotateConfig(clean=folder / "clean", channels=pictures.shape[3])
    out = annotate(folder / "pool", folder / "m.parquet", config, device=device, workers=2, reporter=Reporter())
    rows = pq.read_table(out, columns=["uri", "sigma_min"], filters=[("role", "=", "pool")]).to_pylist()
    found = {kind: [r["sigma_min"] for r in rows if r["uri"].startswith(f"{kind}_")] for kind in ("whole", *BLURS)}
    blurs = np.concatenate([found[kind] for kind in BLURS])
    middle = {kind: float(np.quantile(values, 0.5, method="inverted_cdf")) for kind, values in found.items()}
    whole_above = float((np.array(found["whole"]) > 0.1 * np.median(blurs)).mean())
    return {
        "clean_set": len(known),
        "pictures": {kind: len(values) for kind, values in found.items()},
        "median": middle,
        "median_of_blurred": float(np.quantile(blurs, 0.5, method="inverted_cdf")),
        "whole_above_a_tenth": whole_above,
    }


def write(folder: Path, kinds: dict[str, np.ndarray[Any, Any]], pictures: np.ndarray[Any, Any]) -> None:
    folder.mkdir()
    for kind, places in kinds.items():
        for place in places:
            Image.fromarray(pictures[place].squeeze()).save(folder / f"{kind}_{place:05d}.png")


if __name__ == "__main__":
    main()
