"""What is kept of an annotated manifest: its thresholds in numbers, and a manifest that is small enough to travel."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ambient.curate.manifest import write_manifest
from ambient.schemas.manifest import ANNOTATION, RECORD, manifest_schema, read_metadata


def thresholds(full: Path, by_source: Path) -> dict[str, Any]:
    """Of what is damaged: quantiles of sigma_min per picture; ``fixed``, the median of that by sources."""
    sigmas = _sigma_min(full)
    quantiles = dict(zip(("p10", "median", "p90"), np.quantile(sigmas, (0.1, 0.5, 0.9)).tolist(), strict=True))
    mean = float(sigmas[np.isfinite(sigmas)].mean())
    one = float(np.median(_sigma_min(by_source)))
    return {"pictures": len(sigmas), "mean": mean, **quantiles, "never": int(np.isinf(sigmas).sum()), "fixed": one}


def _sigma_min(manifest: Path) -> np.ndarray:
    """Of the pictures that are not clean."""
    table = pq.read_table(manifest, columns=["sigma_min", "role", "status"])
    other = np.array(table["role"].cast(pa.string()).to_pylist()) == "pool"
    ok = np.array(table["status"].cast(pa.string()).to_pylist()) == "ok"
    return table["sigma_min"].to_numpy()[other & ok].astype(np.float64)


def write_slim(manifest: Path, out: Path) -> None:
    """The manifest without curves, scores and intervals: 1.6 MB for 60,000 pictures."""
    table = pq.read_table(manifest, columns=[*RECORD.names, *ANNOTATION.names])
    for name in ("p_clean", "draws", "sigma_min_lo", "sigma_min_hi"):
        place, column = table.column_names.index(name), ANNOTATION.field(name)
        table = table.set_column(place, column, pa.nulls(len(table), column.type))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(out, table, manifest_schema([]), read_metadata(manifest))
