"""Writes pools that are archives: tar, zip, and Parquet files with pictures; and reads what a pool holds."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ambient.curate.pool import find, scan
from awkward import encoded, picture
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Members = dict[str, bytes | tarfile.TarInfo]


def png(number: int = 0) -> bytes:
    """A picture of its own for each number."""
    return encoded(Image.fromarray(picture() + number))


def records_of(root: Path, workers: int = 2) -> dict[str, dict]:
    """uri -> what is found of each picture of a pool."""
    roots = {"pool": str(root)}
    records = list(scan(find(roots), roots, workers=workers))
    assert len({record["uri"] for record in records}) == len(records)
    return {record["uri"]: record for record in records}


def good_at_once(read: Callable[[int], bool], *, threads: Sequence[int], processes: Sequence[int] = ()) -> bool:
    """Whether read(number) is true for each of these numbers, in threads and forked processes that all run at once."""
    children = []
    for number in processes:
        child = os.fork()
        if child == 0:
            os._exit(0 if read(number) else 1)
        children.append(child)
    with ThreadPoolExecutor(len(threads)) as pool:
        good = all(list(pool.map(read, threads)))
    return good and [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)


def write_tar(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_pictures(path: Path, pictures: list[bytes | None], group: int = 4, **columns: list) -> Path:
    """As ``datasets`` does. group: rows in a row group."""
    image = pa.array([{"bytes": data, "path": None} for data in pictures], IMAGE)
    pq.write_table(pa.table({"image": image, **columns}), path, row_group_size=group)
    return path
