"""Parquet files that hold pictures, one a row, as the library ``datasets`` writes them: struct<bytes, path>.

A row is named ``row-000000012``, so that names sort as rows do. Rows are read in batches, a few of which are kept:
reading in order is fast, and a row group that is larger than the memory does no harm.
"""

import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .beside import CAPTIONS, LABELS, Known, known_from
from .files import identity_of, open_file
from .processes import untimed

_IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")
PATHS = ("path", "file", "file_name", "filename", "uri", "url", "image")
_BATCH_BYTES = 8 << 20
_BATCHES = 8  # kept of each file
_MAX_OPEN = 8


Look = Callable[[Any, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What of a file is of use. image: dotted path of a column of encoded pictures, path: column of paths, or None.

    unused: other columns of pictures.
    """

    image: str | None
    path: str | None
    known: list[str]
    unused: list[str]


def columns_of(schema: pa.Schema) -> Columns:
    """By their types and the usual names; a struct of bytes may bear any name."""
    kinds = {field.name: field.type for field in schema}
    structs = {name: f"{name}.bytes" for name, kind in kinds.items() if _is_picture(kind)}
    binary = {name: name for name, kind in kinds.items() if _is_bytes(kind) and name in _IMAGES}
    found = structs | binary
    image = next((found[name] for name in _IMAGES if name in found), next(iter(structs.values()), None))
    words = [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    path = next((name for name in PATHS if name in words), words[0] if len(words) == 1 else None)
    known = [name for name in (*LABELS, *CAPTIONS) if name in kinds]
    return Columns(image=image, path=path, known=known, unused=[n for n, column in found.items() if column != image])


class PictureTable:
    """A Parquet file with pictures. Threads may share it; a forked process must open its own."""

    def __init__(self, stream: BinaryIO) -> None:
        """Raises pyarrow.ArrowInvalid for what is no Parquet file."""
        self._stream = stream
        self._file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        self.columns = columns_of(self._file.schema_arrow)
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        self._ends = list(accumulate(group.num_rows for group in groups))
        num_bytes = sum(group.total_byte_size for group in groups)
        self._rows = max(1, min(1024, _BATCH_BYTES * len(self) // max(1, num_bytes)))
        self._kept: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()
        self._reading: tuple[int, int, Iterator[pa.RecordBatch]] | None = None  # group, number of the next batch, rest
        self._broken: dict[int, tuple[int, Exception]] = {}  # group -> first batch that cannot be read, and why
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def read(self, row: int) -> bytes:
        """The encoded picture of a row. Raises ValueError where there is none, and what pyarrow raises."""
        if not 0 <= row < len(self):
            raise KeyError(f"the file has {len(self):,} rows")
        group = bisect_right(self._ends, row)
        place = row - (self._ends[group - 1] if group else 0)
        with self._lock, untimed():  # in a process that is new all rows of the group that lie before are read first
            value = self._batch(group, place // self._rows)[place % self._rows]
        data: bytes | None = value.as_py()
        if data is None:
            raise ValueError("the row has no bytes of a picture: put them in, or give a list of paths")
        return data

    def known(self, look: Look) -> Iterator[Known]:
        """Label and caption of each row. look: is given what the label is said to be, and where."""
        for row in self._values(self.columns.known):
            yield _known(row, look)

    def paths(self, look: Look) -> Iterator[tuple[str | None, Known]]:
        """Of a list of paths: path, and label and caption, of each row. look: as in known."""
        name = self.columns.path or ""
        for row in self._values([name, *self.columns.known]):
            yield row[name], _known({key: value for key, value in row.items() if key != name}, look)

    def _values(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        with self._lock:
            for batch in self._file.iter_batches(batch_size=4096, columns=columns, use_threads=False):
                yield from batch.to_pylist() if columns else [{}] * batch.num_rows

    def _batch(self, group: int, number: int) -> pa.Array:
        """Encoded pictures of a batch of a row group, from those kept or from the file. Call with the lock held."""
        if group in self._broken and number >= self._broken[group][0]:
            raise self._broken[group][1].with_traceback(None)  # else every row adds to the last one's
        while (group, number) not in self._kept:
            if self._reading is None or self._reading[0] != group or self._reading[1] > number:
                rest = self._file.iter_batches(
                    batch_size=self._rows, row_groups=[group], columns=[self.columns.image], use_threads=False
                )
                self._reading = (group, 0, rest)
            _, upcoming, rest = self._reading
            try:
                column = next(rest).column(0)
            except Exception as error:
                self._broken[group], self._reading = (upcoming, error), None
                raise
            self._kept[group, upcoming] = column.field("bytes") if pa.types.is_struct(column.type) else column
            self._reading = (group, upcoming + 1, rest)
            if len(self._kept) > _BATCHES:
                self._kept.popitem(last=False)
        return self._kept[group, number]


_tables: OrderedDict[tuple[str, int, int], PictureTable] = OrderedDict()
_lock = threading.Lock()


def open_table(path: str) -> PictureTable:
    """The Parquet file at this path, from the most recently used ones. Raises OSError, pyarrow.ArrowInvalid."""
    key = (path, *identity_of(path))
    with _lock:
        if key not in _tables:
            _tables[key] = PictureTable(open_file(path).stream())
            if len(_tables) > _MAX_OPEN:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return _tables[key]


def close_tables() -> None:
    """Close what reading has left open. It is opened again when needed."""
    with _lock:
        _tables.clear()


def _forget_tables() -> None:
    """Start afresh in a forked process: it shares the position in every open file with its parent."""
    global _lock
    _lock = threading.Lock()
    _tables.clear()


os.register_at_fork(after_in_child=_forget_tables)


def name_of(row: int) -> str:
    return f"row-{row:09d}"


def row_of(name: str) -> int:
    """Raises KeyError for what is no row's name."""
    if not re.fullmatch(r"row-[0-9]{9,}", name):
        raise KeyError(f"{name!r} is not the name of a row, such as {name_of(12)}")
    return int(name[4:])


def _known(row: dict[str, Any], look: Look) -> Known:
    name = next((name for name in LABELS if row.get(name) is not None), None)  # as known_from chooses
    if name is not None:
        look(row[name], f"column {name}")
    return known_from(row)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_picture(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
