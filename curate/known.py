"""Scores that an earlier run has written, or its user, and where score columns belong in a table."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..schemas.errors import UserError
from ..schemas.manifest import ANNOTATION, METADATA_KEY, RECORD, file_metadata, read_metadata, score_fields
from ..schemas.scored import SCORED_KEY, read_scored
from . import duplicates
from .uris import Roots

_KEYS = ("uri", "id")  # that tell a picture in a table of somebody's own


def is_known(path: Path) -> bool:
    """Whether a file is a manifest or a table that `ambient score` wrote, and not a pool that is a Parquet file."""
    return not {METADATA_KEY, SCORED_KEY}.isdisjoint(file_metadata(path))


def join_scores(records: pa.Table, path: Path, *, warn: Callable[[str], None] | None = None) -> pa.Table:
    """The records with the score columns of another table.

    path: a manifest or what `ambient score` wrote, matched by content id, of which columns are taken that are not
    there; or any other Parquet or CSV file with numbers, matched by its column uri or else id, whose columns replace
    scores of their names, too. near_duplicate_of, which names pictures of that table, is told anew from the hashes;
    without them it is left out. Raises UserError where there is no such file, or no picture is in both; where the
    records are a part of the pool, warn is told instead how many have no scores there.
    """
    key, other = _read(path)
    place = pc.index_in(records[key], value_set=other[key].combine_chunks())
    lacking = pc.and_(pc.is_null(place), pc.equal(records["status"].cast(pa.string()), "ok"))
    if warn and (num := pc.sum(lacking).as_py()):
        warn(f"{path} has no scores of {num:,} of the new pictures: score the pool again, and update it then")
    if warn is None and place.null_count == len(place):
        raise UserError(f"{path} has scores of other pictures: none of its {key}s is in this pool")
    names = [name for name in other.column_names if name != key]
    mine = not is_known(path)
    for name in names:
        if mine and (same := _same(name, records.column_names)):
            raise UserError(f"{path}: {name!r} is too like {same!r}, which the pictures have: give it another name")
        if mine or name not in (*records.column_names, "near_duplicate_of"):
            records = with_column(records, name, other[name].take(place))
    return near_duplicates_told(records) if "near_duplicate_of" in names and "phash" in names else records


def _read(path: Path) -> tuple[str, pa.Table]:
    """(column that tells pictures apart, it and the scores) of a table. Raises UserError."""
    if not is_known(path):
        return _numbers(path)
    other = pq.read_table(path, columns=["id", "status", *score_names(path)])
    return "id", other.filter(pc.equal(other["status"].cast(pa.string()), "ok")).drop_columns("status")


def near_duplicates_told(table: pa.Table) -> pa.Table:
    """The table with near_duplicate_of, from the column phash.

    Copies are no near duplicates: they are settled elsewhere, and the one that is kept must lead its kind.
    """
    first = duplicates.near_duplicates(table["phash"])
    content = table["id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first[content == content[first]] = -1
    return with_near_duplicates(table, first)


def score_names(path: Path) -> list[str]:
    """The score columns of what ``join_scores`` takes. Raises UserError as that does."""
    if not is_known(path):
        key, table = _numbers(path)
        return [name for name in table.column_names if name != key]
    read_about(path)
    return [column.name for column in score_fields(pq.read_schema(path)) if _is_score(column)]


def _numbers(path: Path) -> tuple[str, pa.Table]:
    """Of a table that is not ours: its column uri, or else id, and that with its numbers as float32. NaN is NULL.

    Columns of the names that a manifest has by itself are left out. Raises UserError.
    """
    if not path.exists():
        raise UserError(f"there is no table of scores at {path}")
    try:
        table = _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)
        if twice := sorted({name for name in table.column_names if _same(name, table.column_names)}):
            raise UserError(f"{path} has columns whose names differ in nothing but case: {', '.join(twice)}")
        key = next((name for name in _KEYS if name in table.column_names), None)
        values = {c.name: _float32(table[c.name]) for c in table.schema if _is_number(c.type) and _is_own(c.name)}
        if key is None or not values:
            raise UserError(f"{path} needs a column uri or id, as in a manifest, and numbers under names of their own")
        table = pa.table({key: table[key].cast(pa.string()), **values})
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path} is no readable Parquet or CSV file ({str(error).splitlines()[0]})") from error
    table = table.filter(pc.greater(pc.binary_length(table[key]), 0))  # not NULL either
    if pc.count_distinct(table[key]).as_py() < len(table):
        raise UserError(f"{path} names some {key} twice: it must hold one row for each picture")
    return key, table


def _csv(path: Path) -> pa.Table:
    return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(_KEYS, pa.string())))


def _parquet(path: Path) -> pa.Table:
    """Not its pictures and texts."""
    names = [column.name for column in pq.read_schema(path) if column.name in _KEYS or _is_number(column.type)]
    return pq.read_table(path, columns=names)


def _is_own(name: str) -> bool:
    """Whether a column may become a score: pandas' index does not."""
    taken = {*RECORD.names, *ANNOTATION.names, *duplicates.NAMES, *_KEYS}
    return bool(name) and not name.startswith("__index_level_") and name.casefold() not in taken


def _same(name: str, names: Iterable[str]) -> str | None:
    """One of the names that SQL does not tell from this one, though it is spelled otherwise."""
    return next((other for other in names if other != name and other.casefold() == name.casefold()), None)


def _is_number(kind: pa.DataType) -> bool:
    is_ = pa.types
    return bool(is_.is_integer(kind) or is_.is_floating(kind) or is_.is_boolean(kind) or is_.is_decimal(kind))


def _float32(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """NaN, which SQL holds to be more than any number, becomes NULL."""
    values = values.cast(pa.float32(), safe=False)
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float32()), values)


def _is_score(column: pa.Field) -> bool:
    embedding = pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float32()
    return column.type == pa.float32() or embedding or column.name in duplicates.NAMES


def with_near_duplicates(table: pa.Table, first: NDArray[np.int64]) -> pa.Table:
    """The table with near_duplicate_of. first: (N,) as ``near_duplicates`` tells it."""
    uris = table["uri"].cast(pa.string())
    return with_column(table, "near_duplicate_of", uris.take(pa.array(first, mask=first < 0)))


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The column replaced, or put before what annotation adds."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if name in table.column_names:
        return table.set_column(table.schema.get_field_index(name), name, values)
    after = [i for i, existing in enumerate(table.column_names) if existing in ANNOTATION.names]
    return table.add_column(min(after, default=table.num_columns), name, values)


def read_about(path: Path) -> tuple[dict[bytes, bytes], Roots]:
    """(schema metadata to keep, roots) of a manifest or of a table that an earlier run wrote."""
    if not path.is_file():
        raise UserError(f"there is no manifest at {path}")
    try:
        kept: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})") from error
    return kept, (read_metadata(path).roots if METADATA_KEY in kept else read_scored(path).roots)
