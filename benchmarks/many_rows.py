"""A manifest of many rows: how long until the first step, how fast draws are, and what it takes of memory.

    python benchmarks/many_rows.py [10000000]

Writes the manifest into a temporary folder. Its pictures do not exist: the first step of `ambient train`, here of the
preset smoke at batch 512, sees noise in their place, and reading it all again is timed in parts.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ambient.schemas.manifest import METADATA_KEY, Metadata, manifest_schema
from ambient.schemas.space import Space
from ambient.train import loop
from ambient.train.batches import batches
from ambient.train.config import TrainConfig
from ambient.train.loop import build_sampler
from ambient.train.rows import read_rows
from ambient.train.world import World

ROW_GROUP = 1 << 16


def main() -> None:
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        write(path, num)
        config = TrainConfig(batch_size=512, num_images=512 * 4000)
        begin, before = time.perf_counter(), rss_mib()
        rows = read_rows(path)
        read = time.perf_counter()
        sampler = build_sampler(rows, config)
        built = time.perf_counter()
        world = World(rank=0, size=1, device=torch.device("cpu"))
        stream = batches(rows, sampler, None, config, start=0, world=world, pictures_on=world.device)
        next(stream)
        first = time.perf_counter()
        drawn = 512 * sum(1 for _ in stream)
        rate = drawn / (time.perf_counter() - first)
        thresholds = sum(t.numel() * t.element_size() for t in (rows.sigma_min, rows.sigma_max, *sampler.tensors()))
        figures = {
            "rows": num,
            "read_s": round(read - begin, 1),
            "sort_s": round(built - read, 1),
            "first_batch_s": round(first - begin, 1),
            "draws_per_s": round(rate),
            "thresholds_mib": round(thresholds / 2**20),
            "peak_rss_mib": round(rss_mib()),
            "rss_before_mib": round(before),
        }
        figures["first_step_s"] = round(first_step(path, Path(folder) / "run"), 1)  # last: it takes more memory
        print(json.dumps(figures))


class Noise:
    """In place of pictures."""

    device = torch.device("cpu")

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.randint(256, (len(rows), 3, 32, 32), dtype=torch.uint8)


def first_step(manifest: Path, run: Path) -> float:
    """Seconds from the start of a training to the end of its first step."""
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.perf_counter())
        return len(asked) == 2

    begin = time.perf_counter()
    config = TrainConfig.from_settings(["batch_size=512"], preset="smoke")
    with mock.patch.object(loop, "open_pictures", lambda *_, **__: Noise()):
        loop.train(manifest, run, config, device="cpu", stop=stop)
    return asked[1] - begin


def write(path: Path, num: int) -> None:
    """One tenth clean, the others with thresholds of all sizes; rows in groups, so that writing takes little memory."""
    schema = manifest_schema([])
    metadata = Metadata(
        space=Space(resolution=32), roots={"pool": "/nowhere"}, fingerprint="", package_version="", command=""
    )
    schema = schema.with_metadata({METADATA_KEY: metadata.to_bytes()})
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, num, ROW_GROUP):
            count = min(ROW_GROUP, num - start)
            clean = np.arange(start, start + count) % 10 == 0
            floor = np.where(clean, 0, random.lognormal(0, 1, count)).astype(np.float32)
            columns = {
                "uri": [f"shard-{i // 10_000:05d}.zip!/{i:09d}.jpg" for i in range(start, start + count)],
                "id": [random.bytes(16).hex() for _ in range(count)],
                "source": ["pool"] * count,
                "status": ["ok"] * count,
                "role": np.where(clean, "clean", "pool").tolist(),
                "sigma_min": floor,
                "sigma_max": np.zeros(count, np.float32),
                "method": np.where(clean, "clean", "classifier").tolist(),
            }
            arrays = [
                pa.array(columns[field.name], pa.string()).dictionary_encode()
                if pa.types.is_dictionary(field.type) and field.name in columns
                else pa.array(columns.get(field.name, [None] * count), field.type)
                for field in schema
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
