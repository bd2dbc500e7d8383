"""Results on stdout: a table for people, CSV or JSON lines for programs."""

import csv
import io
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..schemas.errors import UserError
from .query import locked, run
from .whole import replacing

_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)

MAX_ROWS = 60
"""A table shows this many; CSV and JSON give all."""

_BATCH = 4096  # rows that are Python's at a time
_FOLD = 24  # a cell may be folded to this many characters before rows are shown as lists


def print_table(table: pa.Table) -> None:
    """Print a table for people, at most 60 rows, on stdout."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=10_000)  # never fold what another program reads
    if table.num_columns == 0:
        return
    console.print(for_people(table.slice(0, MAX_ROWS), console.width))
    if len(table) > MAX_ROWS:
        more = f"... {len(table) - MAX_ROWS:,} more rows: add --csv or --json for all, or a LIMIT"
        Console(stderr=True, highlight=False).print(more)


def for_people(table: pa.Table, width: int) -> Table:
    """Columns side by side, numbers to the right; where they do not fit, each row as a list of its columns."""
    cells = [[shown(value) for value in row.values()] for row in _rows(table)]
    columns = [[name, *(row[i][:_FOLD] for row in cells)] for i, name in enumerate(table.column_names)]
    longest = [max(map(len, column)) for column in columns]
    view = Table(box=None, header_style="bold", pad_edge=False)
    if sum(longest) + 2 * len(longest) > width:
        return _as_lists(view, table.column_names, cells)
    for field in table.schema:
        numeric = any(is_kind(field.type) for is_kind in _NUMBERS)
        view.add_column(escape(field.name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        view.add_row(*map(escape, row))
    return view


def _as_lists(view: Table, names: list[str], cells: list[list[str]]) -> Table:
    view.show_header = False
    view.add_column(style="bold")
    view.add_column(overflow="fold")
    for number, row in enumerate(cells):
        if number:
            view.add_row()
        for name, cell in zip(names, row, strict=True):
            view.add_row(escape(name), escape(cell))
    return view


def write_result(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet or CSV, as the file's name says, whole or not at all.

    Raises UserError for other names, and for columns that Parquet cannot hold.
    """
    if table.num_columns == 0:
        raise UserError(f"the statement has no result: nothing to write to {path}")
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise UserError(f"{path} must end in .parquet or .csv, which says how to write it")
    with replacing(path) as partial:
        if path.suffix.lower() == ".parquet":
            _write_parquet(table, partial)
        else:
            partial.write_text(to_csv(table), encoding="utf-8", newline="")


def _write_parquet(table: pa.Table, path: Path) -> None:
    try:
        pq.write_table(table, path, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        name = next((name for name in table.column_names if not _fits_parquet(table.select([name]))), None)
        if name is None:
            raise
        kind = table.schema.field(name).type
        raise UserError(f"Parquet cannot hold the column {name!r} ({kind}): cast it, as in x::VARCHAR") from error


def _fits_parquet(table: pa.Table) -> bool:
    try:
        pq.write_table(table, io.BytesIO())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def to_csv(table: pa.Table) -> str:
    """The table as CSV with a header; null is empty, a list is JSON."""
    rows = ([json_text(v) if isinstance(v, list | dict) else v for v in row.values()] for row in _rows(table))
    return "".join(map(_csv_line, [table.column_names, *rows]))


def to_json_lines(table: pa.Table) -> str:
    """One JSON object per row. Infinity is 1e999, which is valid JSON and reads back as infinity; NaN is null."""
    return "".join(json_text(row) + "\n" for row in _rows(table))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in _without_odd_times(table).to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _without_odd_times(table: pa.Table) -> pa.Table:
    """The table with columns of times outside Python's years 1 to 9999, such as infinity, as DuckDB's text."""
    odd = [name for name in table.column_names if not _fits_python(table.select([name]))]
    if not odd:
        return table
    with locked() as connection:
        connection.register("odd", table.select(odd))
        texts = run(connection, "SELECT COLUMNS(*)::VARCHAR FROM odd").rename_columns(odd)
    for name in odd:
        table = table.set_column(table.column_names.index(name), name, texts[name])
    return table


def _fits_python(column: pa.Table) -> bool:
    if not _has_times(column.schema.field(0).type):
        return True
    try:
        for batch in column.to_batches(max_chunksize=_BATCH):
            batch.to_pylist()
    except (OverflowError, ValueError):
        return False
    return True


def _has_times(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind)) or any(_has_times(kind.field(i).type) for i in range(kind.num_fields))


def _csv_line(values: list[Any]) -> str:
    """The writer quotes what its own line end has in it, so it must be \\r\\n until the line is done."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(values)
    return out.getvalue().removesuffix("\r\n") + "\n"


def json_text(value: Any) -> str:
    """A value as strict JSON: infinity is 1e999, NaN is null."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json_text(str(k))}: {json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):  # tuples: the entries of a map
        return "[" + ", ".join(map(json_text, value)) + "]"
    if isinstance(value, Decimal):  # what DuckDB's sum() of integers is
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "null" if math.isnan(value) else "1e999" if value > 0 else "-1e999"
    return json.dumps(value, default=str, ensure_ascii=False)


def shown(value: Any) -> str:
    """A value for people: four significant digits, null as nothing, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(shown(v) for v in value[:4])}{', ...' if len(value) > 4 else ''}]"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
