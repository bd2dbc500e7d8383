"""What becomes of pictures that are really clean among the unlabelled ones? One flat folder, three in ten undamaged.

    python benchmarks/annotation_hidden.py runs/annotation/fashion.npz -o docs/annotation/hidden-fashion.json

DATA is what ``annotation.py prepare`` wrote. Half of its clean pictures are the clean set; the folder, of one source,
holds others of them and those with blur 0.6, 0.8 and 1. It goes through `ambient annotate` with its defaults.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from ambient.curate.annotate import AnnotateConfig, annotate
from ambient.curate.reporter import Reporter
from annotation import write
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
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        measured = hidden(options.data, Path(folder), options.device)
    about = {"data": options.data.stem, "seconds": round(time.perf_counter() - since)}
    write(options.out, "hidden", {**about, **measured}, options)


def hidden(data: Path, folder: Path, device: str) -> dict[str, Any]:
    """sigma_min of the undamaged and of the blurred pictures of a folder that does not tell them apart."""
    with np.load(data) as stored:
        pictures, kinds = stored["pictures"].transpose(0, 2, 3, 1), stored["kinds"]
    blurred = {kind: np.flatnonzero(kinds == kind)[:MOST] for kind in BLURS}
    clean = np.flatnonzero(kinds == "clean")
    others = round(SHARE / (1 - SHARE) * sum(map(len, blurred.values())))
    known, whole = clean[: len(clean) // 2], clean[len(clean) // 2 :][:others]
    save(folder / "clean", {"known": known}, pictures)
    save(folder / "pool", {"whole": whole, **blurred}, pictures)
    config = AnnotateConfig(clean=folder / "clean", channels=pictures.shape[3])
    out = annotate(folder / "pool", folder / "m.parquet", config, device=device, workers=2, reporter=Reporter())
    looked_at = [("role", "=", "pool"), ("status", "=", "ok")]
    rows = pq.read_table(out, columns=["uri", "sigma_min"], filters=looked_at).to_pylist()
    found = {kind: [r["sigma_min"] for r in rows if r["uri"].startswith(f"{kind}_")] for kind in ("whole", *BLURS)}
    found["blurred"] = [sigma for kind in BLURS for sigma in found[kind]]
    middle = {kind: float(np.quantile(values, 0.5, method="inverted_cdf")) for kind, values in found.items()}
    return {
        "clean_set": len(known),
        "pictures": {kind: len(values) for kind, values in found.items()},
        "median": middle,
        "whole_above_a_tenth": float((np.array(found["whole"]) > 0.1 * middle["blurred"]).mean()),
    }


def save(folder: Path, kinds: dict[str, np.ndarray[Any, Any]], pictures: np.ndarray[Any, Any]) -> None:
    folder.mkdir()
    for kind, places in kinds.items():
        for place in places:
            Image.fromarray(pictures[place].squeeze()).save(folder / f"{kind}_{place:05d}.png")


if __name__ == "__main__":
    main()
