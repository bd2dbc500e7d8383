"""Scores that an earlier run has written, or its user, and where score columns belong in a table."""

from collections.abc import Callable
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


def is_known(path: Path) -> bool:
    """Whether a file is a manifest or a table that `ambient score` wrote, and not a pool that is a Parquet file."""
    return not {METADATA_KEY, SCORED_KEY}.isdisjoint(file_metadata(path))


def join_scores(records: pa.Table, path: Path, *, warn: Callable[[str], None] | None = None) -> pa.Table:
    """The records with the score columns of another table that they do not have.

    path: a manifest or what `ambient score` wrote, matched by content id; or any other Parquet or CSV file with
    numbers, matched by its column uri or else id. near_duplicate_of, which names pictures of that table, is told anew
    from the hashes; without them it is left out. Raises UserError where there is no such file, or no picture is in
    both; where the records are a part of the pool, warn is told instead how many have no scores there.
    """
    names, key = score_names(path), "id"
    if is_known(path):
        other = pq.read_table(path, columns=["id", "status", *names])
        other = other.filter(pc.equal(other["status"].cast(pa.string()), "ok"))
    else:
        other = _numbers(path)
        key = other.column_names[0]
    place = pc.index_in(records[key], value_set=other[key].combine_chunks())
    lacking = pc.and_(pc.is_null(place), pc.equal(records["status"].cast(pa.string()), "ok"))
    if warn and (num := pc.sum(lacking).as_py()):
        warn(f"{path} has no scores of {num:,} of the new pictures: score the pool again, and update it then")
    if warn is None and place.null_count == len(place):
        raise UserError(f"{path} has scores of other pictures: none of its {key}s is in this pool")
    for name in names:
        if name not in (*records.column_names, "near_duplicate_of"):
            records = with_column(records, name, other[name].take(place))
    return near_duplicates_told(records) if "near_duplicate_of" in names and "phash" in names else records


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
    if path.is_file() and not is_known(path):
        return list(_numbers(path).column_names[1:])
    read_about(path)
    return [column.name for column in score_fields(pq.read_schema(path)) if _is_score(column)]


def _numbers(path: Path) -> pa.Table:
    """Of a table that is not ours: its column uri, or else id, then its numbers as float32. Raises UserError."""
    try:
        table = _csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no readable Parquet or CSV file ({str(error).splitlines()[0]})") from error
    key = next((name for name in ("uri", "id") if name in table.column_names), None)
    ours = {*RECORD.names, *ANNOTATION.names}
    numbers = {c.name: table[c.name].cast(pa.float32(), safe=False) for c in table.schema if _is_number(c.type)}
    numbers = {name: values for name, values in numbers.items() if name not in ours}
    if key is None or not numbers:
        raise UserError(f"{path} needs a column uri or id, as in a manifest, and numbers under names of their own")
    names = table[key].cast(pa.string())
    if pc.count_distinct(names, mode="all").as_py() < len(names):
        raise UserError(f"{path} names some {key} twice: it must hold one row for each picture")
    return pa.table({key: names, **numbers})


def _csv(path: Path) -> pa.Table:
    return csv.read_csv(path, convert_options=csv.ConvertOptions(column_types={"id": pa.string(), "uri": pa.string()}))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


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
