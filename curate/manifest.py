"""Writing a manifest so that a kill at any moment costs a part, never the file.

Finished parts lie in ``<manifest>.parts``, each whole (whole.py). The folder belongs to one run:
the digest of its options and of what was in the pool. A folder of that name that no run has signed is somebody else's.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..schemas.errors import UserError
from ..schemas.manifest import ANNOTATION, METADATA_KEY, ROW_GROUP_SIZE, Metadata, file_metadata
from .known import is_known
from .reporter import Reporter
from .whole import check_local, replacing, write_whole

_LOCK, _MARKER = "lock", "run.json"
_CURVES = pa.schema([("row", pa.int64()), ANNOTATION.field("p_clean"), ANNOTATION.field("draws")])


def write_table(path: Path, table: pa.Table) -> None:
    """Write one Parquet file, whole or not at all."""
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=ROW_GROUP_SIZE)


def write_manifest(
    path: Path, table: pa.Table, schema: pa.Schema, metadata: Metadata, *, curves: Iterator[pa.Table] | None = None
) -> None:
    """Write the manifest in row groups of 65,536, whole or not at all.

    curves: p_clean and draws, where the table lacks them, in parts with the column row, ascending over all parts.
    """
    schema = schema.with_metadata({METADATA_KEY: metadata.to_bytes()})
    with replacing(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for part in row_groups(table) if curves is None else with_curves(table, curves):
            writer.write_table(_conform(part, schema), row_group_size=ROW_GROUP_SIZE)


def row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """The table in pieces of 65,536 rows."""
    for start in range(0, len(table), ROW_GROUP_SIZE):
        yield table.slice(start, ROW_GROUP_SIZE)


def with_curves(table: pa.Table, curves: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """``row_groups`` with the columns p_clean and draws, null in rows that have none. curves: as ``write_manifest``."""
    start, rest = 0, _CURVES.empty_table()
    for group in row_groups(table):
        found, end = [rest], start + len(group)
        while (len(found[-1]) == 0 or found[-1]["row"][-1].as_py() < end) and (more := next(curves, None)) is not None:
            found.append(more.select(_CURVES.names).cast(_CURVES))
        here = pa.concat_tables(found)
        num = int(np.searchsorted(here["row"].to_numpy(), end))
        at = np.full(len(group), -1)
        at[here["row"].to_numpy()[:num] - start] = np.arange(num)
        taken = here.take(pa.array(at, mask=at < 0))
        rest, start = here.slice(num), end
        for name in ("p_clean", "draws"):
            group = group.append_column(name, taken[name])
        del found, here, taken  # 25 MB each
        yield group


def curves_of(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Columns row, p_clean and draws of the rows that have some. parts: of a manifest's table, in order."""
    start = 0
    for part in parts:
        rows = pa.array(np.arange(start, start + len(part)))
        start += len(part)
        yield part.select(["p_clean", "draws"]).append_column("row", rows).filter(pc.is_valid(part["p_clean"]))


def fingerprint(records: pa.Table) -> str:
    """BLAKE2b-128 in hex over the uris and ids."""
    hashed = hashlib.blake2b(digest_size=16)
    for batch in records.select(["uri", "id"]).to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            hashed.update(json.dumps([row["uri"], row["id"]]).encode())
    return hashed.hexdigest()


class Work:
    """The folder of finished parts of one run, held by one process at a time."""

    def __init__(self, manifest: Path, run: str) -> None:
        """run: digest of what the run does; parts of another run are removed, and ``discarded`` says so."""
        self.folder = manifest.with_name(manifest.name + ".parts")
        self.run = run
        self.discarded = False

    def __enter__(self) -> "Work":
        check_local(self.folder)
        try:
            if _is_foreign(self.folder):
                raise UserError(f"{self.folder} is not ambient's: choose another -o")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = (self.folder / _LOCK).open("wb")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): choose another -o") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(self.folder / _LOCK)  # noqa: PTH116  # gone where a run that has just ended removed the folder
        except OSError as error:
            self._lock.close()
            raise UserError(f"another run is writing {self.folder.name}: wait for it or choose another -o") from error
        try:
            self._discard_others()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _discard_others(self) -> None:
        """Remove the parts of another run and sign the folder."""
        marker = self.folder / _MARKER
        if not marker.exists() or marker.read_text() != self.run:
            self.discarded = self._clear()
            write_whole(marker, self.run.encode())

    def _clear(self) -> bool:
        """Remove all but the lock, and say whether there was anything."""
        others = [path for path in self.folder.iterdir() if path.name != _LOCK]
        for path in others:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        return bool(others)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._clear()  # the lock goes last: what a kill leaves is still known as ours
                shutil.rmtree(self.folder)
        finally:
            self._lock.close()

    def part(self, stage: str, number: int) -> Path:
        """Path of part `number` of a stage."""
        return self.folder / f"{stage}-{number:06d}.parquet"


def _is_foreign(folder: Path) -> bool:
    """Whether a folder holds something, but neither the lock nor the marker of a run."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(names) and names.isdisjoint({_LOCK, _MARKER})


def is_finished(out: Path, run: str, key: bytes, *, overwrite: bool, reporter: Reporter) -> bool:
    """Whether this run has written `out` before; then parts that a kill has left are removed, and it is said.

    key: of the file metadata in which `out` names its run. Raises UserError where `out` is something else, unless it
    may be overwritten.
    """
    if not out.exists():
        return False
    if out.is_dir():
        raise UserError(f"{out} is a folder: name the file to write, such as -o {out / 'manifest.parquet'}")
    if overwrite:
        check_replaceable(out)
        return False
    if _run_of(out, key) != run:
        raise UserError(
            f"{out} was written with other options, for another pool or by something else: choose another -o or add "
            "--overwrite"
        )
    reporter.say(f"{out} is finished: the same command wrote it; nothing to do")
    work = Work(out, run)
    if work.folder.is_dir() and not _is_foreign(work.folder):
        with work:
            pass
    return True


def check_replaceable(out: Path) -> None:
    """Raise UserError for what --overwrite must not replace: anything but a manifest, a table of scores or nothing."""
    if out.exists() and not is_known(out) and (not out.is_file() or out.stat().st_size > 0):
        raise UserError(f"{out} is something else than a manifest: choose another -o, or remove it first")


def _run_of(path: Path, key: bytes) -> str | None:
    try:
        return str(json.loads(file_metadata(path)[key])["run"])
    except (KeyError, ValueError, TypeError):
        return None


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns of the schema in its order; dictionaries are rebuilt, so that equal rows give equal bytes."""
    columns = []
    for field in schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_dictionary(field.type):
            column = column.cast(pa.string()).dictionary_encode()
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)
