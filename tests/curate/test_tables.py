"""Results on stdout: nothing is lost or mangled on the way to a program, and people see a table."""

import csv
import datetime
import io
import json
import math
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ambient.curate.query import locked, run
from ambient.curate.tables import MAX_ROWS, for_people, print_table, to_csv, to_json_lines, write_result
from ambient.schemas.errors import UserError
from rich.console import Console

TEXTS = [
    "plain",
    "[red]",
    "[/]",
    ":smile:",
    'a,"b"',
    "new\nline",
    "car\rriage",
    "tab\t",
    "ü 日本 🙂",
    "",
    " x ",
    "\\",
    None,
]
FLOATS = [1.5, math.inf, -math.inf, math.nan, None, 0.1, 1e-300, -0.0, 1e300, 3.0, 2.0, 1.0, 0.0]
TABLE = pa.table(
    {
        "text, [bold]": TEXTS,
        "number": FLOATS,
        "single": pa.array([None if x is None else x for x in FLOATS], pa.float32()),
        "whole": pa.array([*range(10), None, 2**62, -1], pa.int64()),
        "total": pa.array([Decimal(10**30)] * 12 + [None], pa.decimal128(38, 0)),
        "cents": pa.array([Decimal("-1.25")] * 12 + [None], pa.decimal128(10, 2)),
        "yes": [True, False, None] * 4 + [True],
        "curve": [[0.5, math.inf, None, math.nan], [], None, *[[1.0]] * 10],
        "names": [['a"b', "[red]", None], [], None, *[["x\n"]] * 10],
        "word": pa.array(TEXTS).dictionary_encode(),
        "nest": [{"a": [1.0, math.nan], "b": "x"}] * 12 + [None],
    }
)


def strict(text: str) -> object:
    """Standard JSON only: no bare NaN or Infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_json_lines_are_strict_json_and_read_back() -> None:
    lines = to_json_lines(TABLE).split("\n")
    assert lines.pop() == ""
    found = [strict(line) for line in lines]
    assert [list(row) for row in found] == [TABLE.column_names] * len(TABLE)

    def null_for_nan(value: object) -> object:
        if isinstance(value, list):
            return [null_for_nan(v) for v in value]
        if isinstance(value, dict):
            return {k: null_for_nan(v) for k, v in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    assert found == [null_for_nan(row) for row in TABLE.to_pylist()]
    assert type(found[0]["total"]) is int
    assert type(found[0]["cents"]) is float


def test_json_of_maps_dates_and_bytes() -> None:
    table = pa.table(
        {
            "map": pa.array([[("k", math.nan), ("j", 1.0)]], pa.map_(pa.string(), pa.float64())),
            "day": [datetime.date(2025, 3, 1)],
            "bytes": [b"\xff"],
        }
    )
    row = strict(to_json_lines(table))
    assert row["map"] == [["k", None], ["j", 1.0]]
    assert row["day"] == "2025-03-01"
    strict("[" + next(csv.reader(io.StringIO(to_csv(table).split("\n", 1)[1])))[0] + "]")


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("DATE '20000-01-01'", "20000-01-01"),
        ("DATE '-infinity'", "-infinity"),
        ("DATE '0044-03-15 (BC)'", "0044-03-15 (BC)"),
        ("TIMESTAMP 'infinity'", "infinity"),
        ("TIMESTAMPTZ 'infinity'", "infinity"),
        ("TIMESTAMP_S 'infinity'", "infinity"),
        ("TIMESTAMP_MS '20000-01-01'", "20000-01-01 00:00:00"),
        ("[DATE 'infinity']", "[infinity]"),
        ("MAP {1: DATE '20000-01-01'}", "{1=20000-01-01}"),
    ],
)
def test_times_that_python_has_not_are_text(sql: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with locked() as connection:
        table = run(connection, f'SELECT 1 AS n, {sql} AS "X", {sql} AS x UNION ALL SELECT 2, NULL, NULL ORDER BY n')
    found = [strict(line) for line in to_json_lines(table).splitlines()]
    assert found == [{"n": 1, "X": text, "x": text}, {"n": 2, "X": None, "x": None}]
    assert to_csv(table) == f"n,X,x\n1,{text},{text}\n2,,\n"
    assert printed(table, capsys)[0][1].split() == ["1", *text.split(), *text.split()]


def test_other_times_keep_their_form() -> None:
    with locked() as connection:
        table = run(connection, "SELECT DATE '9999-12-31' AS a, TIMESTAMP '2025-03-01 10:00:00.5' AS b, [a] AS c")
    (line,) = to_json_lines(table).splitlines()
    assert strict(line) == {"a": "9999-12-31", "b": "2025-03-01 10:00:00.500000", "c": ["9999-12-31"]}


def test_csv_round_trip() -> None:
    text = to_csv(TABLE)
    header, *found = csv.reader(io.StringIO(text, newline=""))
    assert header == TABLE.column_names
    columns = dict(zip(header, zip(*found, strict=True), strict=True))
    assert list(columns["text, [bold]"]) == [text or "" for text in TEXTS]
    assert list(columns["word"]) == [text or "" for text in TEXTS]
    for mine, theirs in zip(columns["number"], FLOATS, strict=True):
        assert (mine == "") == (theirs is None)
        if theirs is not None:
            assert float(mine) == theirs or (math.isnan(float(mine)) and math.isnan(theirs))
    assert [int(x) for x in columns["whole"] if x] == [x for x in TABLE["whole"].to_pylist() if x is not None]
    assert [Decimal(x) for x in columns["total"] if x] == [Decimal(10**30)] * 12
    assert strict(columns["curve"][0]) == [0.5, math.inf, None, None]
    assert strict(columns["names"][0]) == ['a"b', "[red]", None]
    assert columns["names"][2] == ""


def test_large_tables_are_whole() -> None:
    table = pa.table({"n": range(10_000)})
    assert to_csv(table) == "n\n" + "".join(f"{n}\n" for n in range(10_000))
    assert to_json_lines(table).count("\n") == 10_000


def test_empty_tables() -> None:
    empty = TABLE.slice(0, 0)
    assert to_json_lines(empty) == ""
    assert to_csv(empty).count("\n") == 1
    assert to_json_lines(pa.table({})) == ""


def printed(table: pa.Table, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    print_table(table)
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_table_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    lines, err = printed(TABLE, capsys)
    assert len(lines) == 1 + len(TABLE)
    assert err == ""
    assert lines[0].startswith("text, [bold]")
    for text in ("[red]", "[/]", ":smile:", "new\\nline", "car\\rriage", "ü 日本 🙂"):
        assert sum(line.startswith(text) for line in lines) == 1
    assert "[0.5, inf, , nan]" in lines[1]
    assert "1" + 30 * "0" in lines[1]


def test_table_is_cut_at_60_rows_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert MAX_ROWS == 60
    lines, err = printed(pa.table({"n": range(60)}), capsys)
    assert (len(lines), err) == (61, "")
    lines, err = printed(pa.table({"n": range(1_061)}), capsys)
    assert len(lines) == 61
    assert "1,001 more rows" in err
    assert "--json" in err


def test_numbers_are_short_and_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = printed(pa.table({"long name": [1.23456789, 1000.0], "sum": [Decimal(7), Decimal(1234567)]}), capsys)
    assert lines == ["long name      sum", "    1.235        7", "     1000  1234567"]


def test_long_cells_are_not_folded_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = printed(pa.table({"uri": ["x" * 3000]}), capsys)
    assert lines[1].strip() == "x" * 3000


def test_no_columns_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(pa.table({}), capsys) == ([], "")


def test_results_as_files(tmp_path: Path) -> None:
    write_result(TABLE, tmp_path / "t.parquet")
    read = pq.read_table(tmp_path / "t.parquet")
    assert read.schema.equals(TABLE.schema)
    assert str(read.to_pylist()) == str(TABLE.to_pylist())  # as text, in which NaN equals NaN
    write_result(TABLE, tmp_path / "t.CSV")
    assert (tmp_path / "t.CSV").read_bytes().decode() == to_csv(TABLE)
    with pytest.raises(UserError, match=r"\.parquet or \.csv"):
        write_result(TABLE, tmp_path / "t.xlsx")
    with pytest.raises(UserError, match="no result"):
        write_result(pa.table({}), tmp_path / "t.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.CSV", "t.parquet"]


@pytest.mark.parametrize("sql", ["INTERVAL 1 MONTH", "[INTERVAL 1 MONTH]", "TIMESTAMP_S 'infinity'"])
def test_what_parquet_cannot_hold_is_one_line_and_no_file(tmp_path: Path, sql: str) -> None:
    with locked() as connection:
        table = run(connection, f"SELECT 1 AS good, {sql} AS odd")
    with pytest.raises(UserError, match=r"cannot hold the column 'odd' .*: cast it, as in x::VARCHAR") as error:
        write_result(table, tmp_path / "o.parquet")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def lines_at(table: pa.Table, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(for_people(table, width))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_rows_that_do_not_fit_are_lists() -> None:
    table = pa.table({"first": [1, 2], "second": ["x" * 20, "[red]"], "third": ["y" * 200, None]})
    assert lines_at(table, 60)[0] == "first  second                third"
    narrow = lines_at(table, 40)
    assert narrow[:3] == ["first   1", "second  xxxxxxxxxxxxxxxxxxxx", f"third   {'y' * 32}"]
    assert narrow[-4:] == ["", "first   2", "second  [red]", "third"]
