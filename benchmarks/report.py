"""The report of a million rows, and SQL over ten million. Run: ``python benchmarks/report.py FOLDER``.

FOLDER gets two synthetic manifests (2.4 GB) and the pictures that the report shows, and keeps them for the next time.
"""

import argparse
import io
import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import skimage.data
from ambient import __version__
from ambient.curate.pool import content_id
from ambient.curate.query import connect, query
from ambient.curate.report.aggregates import number_groups
from ambient.curate.report.gallery import choose, clean_references
from ambient.curate.threshold import sigma_grid
from ambient.schemas.manifest import METADATA_KEY, ROW_GROUP_SIZE, Metadata, manifest_schema
from ambient.schemas.space import Space
from PIL import Image

GRID, SIDE, CROPS = sigma_grid(), 128, 64
SCORES = ["sharpness", "unblocked"]
SOURCES = [f"source-{i:03d}" for i in range(300)]
REPORT_ROWS, SQL_ROWS = 1_000_000, 10_000_000
GROUP_BY = "SELECT source, count(*), avg(sharpness), median(sigma_min) FROM manifest WHERE status = 'ok' GROUP BY ALL"
USABLE = "SELECT source, count(*) FROM usable(0.5) GROUP BY source"


@cache
def photographs() -> list[bytes]:
    """JPEG files of 64 crops of a photograph, twice as large as the space."""
    photograph = Image.fromarray(skimage.data.astronaut())
    files = []
    for i in range(CROPS):
        left, top = 256 * (i % 8) // 7, 256 * (i // 8) // 7
        photograph.crop((left, top, left + 2 * SIDE, top + 2 * SIDE)).save(out := io.BytesIO(), "JPEG", quality=90)
        files.append(out.getvalue())
    return files


def write(path: Path, num: int) -> Path:
    """A manifest of num rows: 10 % clean, 2 % unusable, logistic curves that rise to 0.5 around sigma_min."""
    if path.exists() and pq.read_metadata(path).num_rows == num:
        return path
    metadata = Metadata(
        space=Space(resolution=SIDE),
        roots={"pool": "/no/such/pool"},
        fingerprint="0" * 32,
        package_version=__version__,
        command="synthetic",
        sigma_grid=GRID.tolist(),
        draws=8,
    )
    schema = manifest_schema(SCORES).with_metadata({METADATA_KEY: metadata.to_bytes()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, num, ROW_GROUP_SIZE):
            writer.write_table(rows(start, min(ROW_GROUP_SIZE, num - start), schema), row_group_size=ROW_GROUP_SIZE)
    return path


def rows(start: int, num: int, schema: pa.Schema) -> pa.Table:
    random = np.random.default_rng(start)
    clean, bad = random.random(num) < 0.1, random.random(num) < 0.02
    source = np.minimum(random.zipf(1.3, num) - 1, len(SOURCES) - 1)
    sigma = np.exp(random.normal(-0.5 + source % 7 / 7, 0.7, num))
    sigma[random.random(num) < 0.02] = np.inf
    rise = 1 / (1 + np.exp(-4 * (np.log(GRID)[None] - np.log(np.where(np.isinf(sigma), 1e4, sigma))[:, None])))
    p_clean = np.clip(0.5 * rise + 0.03 * random.standard_normal((num, len(GRID))), 0, 1)
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * len(GRID))
    p_clean[clean] = 1 - p_clean[clean]
    sigma[clean] = 0
    ids = [content_id(data) for data in photographs()]
    columns = {
        "uri": [f"{SOURCES[s]}/{start + i:08d}.jpg" for i, s in enumerate(source)],
        "id": [ids[(start + i) % CROPS] for i in range(num)],
        "source": np.array(SOURCES)[source],
        "width": random.integers(64, 2048, num),
        "height": random.integers(64, 2048, num),
        "num_bytes": random.integers(1e3, 1e6, num),
        "format": np.full(num, "jpeg"),
        "label": random.integers(0, 1000, num),
        "caption": [f"a picture, number {start + i}" for i in range(num)],
        "status": np.where(bad, "duplicate", "ok"),
        "reason": pa.array([f"same content as {start + i}.jpg" for i in range(num)], mask=~bad),
        "role": np.where(clean, "clean", "pool"),
        "sharpness": random.normal(size=num),
        "unblocked": -random.exponential(size=num),
        "p_clean": pa.ListArray.from_arrays(offsets, pa.array(p_clean.ravel(), pa.float32()), mask=pa.array(bad)),
        "draws": pa.ListArray.from_arrays(offsets, pa.array(np.full(p_clean.size, 8), pa.int32()), mask=pa.array(bad)),
        "sigma_min": pa.array(sigma, pa.float32(), mask=bad),
        "sigma_min_lo": pa.array(sigma * 0.9, pa.float32(), mask=bad),
        "sigma_min_hi": pa.array(sigma * 1.1, pa.float32(), mask=bad),
        "sigma_max": pa.array(np.zeros(num), pa.float32(), mask=bad),
        "method": pa.array(np.where(clean, "clean", "classifier"), mask=bad),
    }
    arrays = [
        pa.array(columns[f.name], f.type.value_type).dictionary_encode()
        if pa.types.is_dictionary(f.type)
        else pa.array(columns[f.name]).cast(f.type)
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_shown(manifest: Path, pool: Path) -> None:
    """Write the pictures that the report will show; the others are never read."""
    with connect(manifest) as connection:
        number_groups(connection)
        uris = [uri for gallery in choose(connection) for uri in gallery.uris] + clean_references(connection)
    for uri in uris:
        (pool / uri).parent.mkdir(parents=True, exist_ok=True)
        (pool / uri).write_bytes(photographs()[int(Path(uri).stem) % CROPS])


def report(manifest: Path, out: Path, pool: Path) -> str:
    """Seconds, largest resident memory and size of ``ambient report``, in a process of its own."""
    command = [sys.executable, "-m", "ambient.cli", "report", str(manifest), "-o", str(out), "--root", f"pool={pool}"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("ambient report failed")
    memory, size = usage.ru_maxrss * 1024 / 1e9, out.stat().st_size / 1e6
    return f"{time.perf_counter() - start:.1f} s, {memory:.2f} GB, {size:.1f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    small, large = write(folder / "1m.parquet", REPORT_ROWS), write(folder / "10m.parquet", SQL_ROWS)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, duckdb {duckdb.__version__}")
    write_shown(small, folder / "pool")
    for manifest in (small, large):
        print(f"report of {manifest.name}: {report(manifest, folder / 'report.html', folder / 'pool')}")
    for sql in (GROUP_BY, USABLE):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            query(large, sql)
            times.append(time.perf_counter() - start)
        print(f"{SQL_ROWS:,} rows, best of 3: {min(times):.2f} s (worst {max(times):.2f})  {sql}")


if __name__ == "__main__":
    main()
