"""Results on stdout: a table for people, CSV or JSON lines for programs."""

import csv
import io
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)

MAX_ROWS = 60
"""A table shows this many; CSV and JSON give all."""


def print_table(table: pa.Table) -> None:
    """Print a table for people, numbers to the right, at most 60 rows."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, width=10_000)  # never fold what another program reads
    if table.num_columns == 0:
        return
    view = Table(box=None, header_style="bold", pad_edge=False)
    for field in table.schema:
        numeric = any(is_kind(field.type) for is_kind in _NUMBERS)
        view.add_column(escape(field.name), justify="right" if numeric else "left", overflow="fold")
    for row in table.slice(0, MAX_ROWS).to_pylist():
        view.add_row(*(escape(_shown(row[name])) for name in table.column_names))
    console.print(view)
    if len(table) > MAX_ROWS:
        more = f"... {len(table) - MAX_ROWS:,} more rows: add --csv or --json for all, or a LIMIT"
        Console(stderr=True, highlight=False).print(more)


def to_csv(table: pa.Table) -> str:
    """The table as CSV with a header; null is empty, a list is JSON."""
    rows = ([json_text(v) if isinstance(v, list | dict) else v for v in row.values()] for row in _rows(table))
    return "".join(map(_csv_line, [table.column_names, *rows]))


def to_json_lines(table: pa.Table) -> str:
    """One JSON object per row. Infinity is 1e999, which is valid JSON and reads back as infinity; NaN is null."""
    return "".join(json_text(row) + "\n" for row in _rows(table))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


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


def _shown(value: Any) -> str:
    """Four significant digits, null as nothing, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(v) for v in value[:4])}{', ...' if len(value) > 4 else ''}]"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
