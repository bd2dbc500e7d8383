"""Memory and speed of finding and reading a pool of very many tiny pictures in one archive.

    python benchmarks/pool.py FOLDER [tar|zip] [MEMBERS] [READ]

Writes FOLDER/pool.<kind> with MEMBERS 8x8 PNG files (default a million) unless it is there, finds them, reads the first
READ of them (default all) as `ambient annotate` does, in parts, and prints the highest memory after each step.
"""

import io
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ambient.curate.candidates import Candidates
from ambient.curate.manifest import fingerprint, write_table
from ambient.curate.pool import Found, find, mark_duplicates, scan, to_table
from ambient.curate.reading import RECORDS_PER_PART
from PIL import Image


def write(path: Path, members: int) -> None:
    pictures, random = [], np.random.default_rng(0)
    for _ in range(64):
        data = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(data, "PNG")
        pictures.append(data.getvalue())
    names = (f"{number // 1000:05d}/{number:08d}.png" for number in range(members))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(name, pictures[number % 64])
        return
    with path.open("wb") as file:
        for number, name in enumerate(names):
            data, info = pictures[number % 64], tarfile.TarInfo(name)
            info.size = len(data)
            file.write(info.tobuf() + data + bytes(-len(data) % 512))
        file.write(bytes(1024))


def highest_mib() -> float:
    """The most memory that this process has had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def step(name: str, count: int, since: float) -> float:
    elapsed = time.monotonic() - since
    print(f"{name:28s} {count:>9,} in {elapsed:7.1f} s ({count / elapsed:>9,.0f}/s), at most {highest_mib():,.0f} MiB")
    return time.monotonic()


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "tar"
    members = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
    read = int(sys.argv[4]) if len(sys.argv) > 4 else members
    path = folder / f"pool.{kind}"
    now = time.monotonic()
    if not path.exists():
        write(path, members)
        now = step("write the archive", members, now)
    now = step("import", 1, now)
    roots = {"pool": str(path)}
    found = find(roots)
    now = step("find", len(found.candidates), now)
    parts = []
    for number, start in enumerate(range(0, read, RECORDS_PER_PART)):
        part: Candidates = found.candidates[start : start + RECORDS_PER_PART]
        parts.append(folder / f"records-{number:06d}.parquet")
        write_table(parts[-1], to_table(scan(Found(candidates=part, others={}), roots, workers=2)))
        if number % 16 == 15:
            step("  read so far", start + len(part), now)
    now = step("read", read, now)
    repeated = (parts * (members // read))[: len(parts) * (members // read)]  # as many rows as if all were read
    records = pa.concat_tables(pq.read_table(part) for part in repeated).unify_dictionaries().combine_chunks()
    records = mark_duplicates(records)
    now = step("gather, mark duplicates", len(records), now)
    fingerprint(records)
    step("fingerprint", len(records), now)


if __name__ == "__main__":
    main()
