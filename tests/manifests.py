"""Manifests written directly from a few columns, for tests of what reads them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ambient.schemas.manifest import METADATA_KEY, Metadata, manifest_schema
from ambient.schemas.space import Space

METADATA = Metadata(
    space=Space(resolution=16),
    roots={"pool": "/pool"},
    fingerprint="0" * 32,
    package_version="0",
    command="test",
    run="1" * 32,
    sigma_grid=[0.01, 0.1, 1.0, 10.0],
    draws=2,
)


def rows(num: int, **columns: Any) -> pa.Table:
    """num valid rows: usable pictures of the pool with sigma_min 1. columns: a list, or one value for all rows."""
    defaults = {
        "uri": [f"{i:07d}.png" for i in range(num)],
        "id": [f"{i:032x}" for i in range(num)],
        "source": "pool",
        "width": 16,
        "height": 16,
        "num_bytes": 100,
        "format": "png",
        "label": None,
        "caption": None,
        "status": "ok",
        "reason": None,
        "role": "pool",
        "p_clean": [[0.0, 0.25, 0.5, 0.5]] * num,
        "sigma_min": 1.0,
        "sigma_min_lo": 0.5,
        "sigma_min_hi": 2.0,
        "sigma_max": 0.0,
        "method": "classifier",
    }
    schema = manifest_schema([])
    data = {**dict.fromkeys(schema.names), **defaults, **columns}
    lists = {name: value if isinstance(value, list) else [value] * num for name, value in data.items()}
    return pa.table(lists, schema=schema)


def rows_of(manifest: Path) -> dict[str, dict]:
    """uri -> row."""
    return {row["uri"]: row for row in pq.read_table(manifest).to_pylist()}


def write(path: Path, table: pa.Table, metadata: Metadata = METADATA) -> Path:
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: metadata.to_bytes()}), path)
    return path
