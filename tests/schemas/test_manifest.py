"""The manifest's schema, its metadata, and what reading one refuses."""

import dataclasses
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import (
    ANNOTATION,
    METADATA_KEY,
    METHODS,
    RECORD,
    ROLES,
    SCHEMA_VERSION,
    STATUSES,
    Metadata,
    check_rows,
    manifest_schema,
    read_metadata,
)
from manifests import METADATA, rows, write


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_metadata(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_table_and_metadata_through_parquet(tmp_path: Path) -> None:
    table = rows(
        5,
        uri=["a.png", "ü.png", "new\nline.png", "shard.zip!/b.png", "clean:c.png"],
        status=["ok", "ok", "ok", "unreadable", "ok"],
        label=[None, 0, 2, None, 1],
        sigma_min=[0.0, math.inf, 0.5, None, 1.0],
        p_clean=[[0.0, 1.0, 0.5, 0.5], None, [], [math.nan], [0.25]],
    )
    path = write(tmp_path / "m.parquet", table)
    back = pq.read_table(path)
    assert back.schema.equals(manifest_schema([]))
    assert repr(back.to_pylist()) == repr(table.to_pylist())  # repr: NaN differs from itself
    assert read_metadata(path) == METADATA


def test_columns_are_the_design_s() -> None:
    schema = manifest_schema(["sharpness", "clipiqa"])
    assert schema.names == [*RECORD.names, "sharpness", "clipiqa", *ANNOTATION.names]
    assert schema.field("clipiqa").type == pa.float32()
    with pytest.raises(UserError, match="cannot be named 'width'"):
        manifest_schema(["width"])


def test_metadata_says_all_it_knows_in_json() -> None:
    metadata = dataclasses.replace(METADATA, classifier="f" * 32, epsilon=0.1, roots={"pool": "/ü", "clean": "/c"})
    assert Metadata.from_bytes(metadata.to_bytes()) == metadata
    assert json.loads(metadata.to_bytes())["space"]["resolution"] == 16


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "ambient annotate POOL -o" in refusal(tmp_path / "none.parquet")
    assert "is a folder and no manifest" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"uri,id\na,b\n", b"PAR1" + b"\xff" * 64 + b"PAR1"])
def test_not_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    assert "not a readable Parquet file" in refusal(path)


def test_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", rows(100))
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable Parquet file" in refusal(path)


def test_parquet_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(rows(1), path)
    assert "not an ambient manifest" in refusal(path)


@pytest.mark.parametrize(
    ("version", "todo"), [(SCHEMA_VERSION + 1, "update ambient-omni"), (SCHEMA_VERSION - 1, "annotate"), (None, "anno")]
)
def test_other_schema_versions(tmp_path: Path, version: int | None, todo: str) -> None:
    path = write(tmp_path / "m.parquet", rows(1), dataclasses.replace(METADATA, schema_version=version))
    message = refusal(path)
    assert f"schema {version}" in message
    assert todo in message


@pytest.mark.parametrize(
    "metadata", [b"not json", b"[1]", b'{"schema_version": 1}', b'{"schema_version": 1, "space": {"resolution": 16}}']
)
def test_damaged_metadata(tmp_path: Path, metadata: bytes) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(rows(1).replace_schema_metadata({METADATA_KEY: metadata}), path)
    assert "annotate the pool again" in refusal(path)


def test_metadata_of_an_unknown_field_or_a_bad_space(tmp_path: Path) -> None:
    fields = json.loads(METADATA.to_bytes())
    for change, words in (({"colour": 1}, "colour"), ({"space": {"resolution": 2}}, "smallest is 8")):
        path = tmp_path / "m.parquet"
        pq.write_table(rows(1).replace_schema_metadata({METADATA_KEY: json.dumps({**fields, **change})}), path)
        assert words in refusal(path)


@pytest.mark.parametrize("name", [*RECORD.names, *ANNOTATION.names])
def test_missing_column(tmp_path: Path, name: str) -> None:
    assert f"no column {name!r}" in refusal(write(tmp_path / "m.parquet", rows(1).drop_columns([name])))


@pytest.mark.parametrize(
    ("name", "kind"), [("sigma_min", pa.float64()), ("label", pa.string()), ("p_clean", pa.list_(pa.float64()))]
)
def test_column_of_the_wrong_type(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    table = rows(1)
    path = write(tmp_path / "m.parquet", table.set_column(table.column_names.index(name), name, pa.nulls(1, kind)))
    assert f"column {name!r} of {path} is {'list' if name == 'p_clean' else kind}" in refusal(path)


def test_plain_and_large_strings_will_do(tmp_path: Path) -> None:
    table = rows(1)
    for name, kind in (("source", pa.string()), ("status", pa.large_string()), ("uri", pa.large_string())):
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast(pa.string()).cast(kind))
    assert read_metadata(write(tmp_path / "m.parquet", table)) == METADATA
    check_rows(table, "it")


def test_valid_rows_pass() -> None:
    check_rows(rows(0), "it")
    check_rows(rows(3, sigma_min=[0.0, math.inf, 2.0], sigma_max=[math.inf, 0.0, 1.0]), "it")
    for name, words in (("status", STATUSES), ("role", ROLES), ("method", METHODS)):
        check_rows(rows(len(words), **{name: list(words)}), "it")


def test_unusable_rows_may_be_empty() -> None:
    empty = dict.fromkeys(["id", "sigma_min", "sigma_min_lo", "sigma_min_hi", "sigma_max", "method"])
    check_rows(rows(2, status="unreadable", reason="torn", **empty), "it")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("uri", "0000000.png"),
        ("status", "fine"),
        ("role", "judge"),
        ("method", "guess"),
        ("method", None),
        ("id", None),
        ("id", "abc"),
        ("id", "0" * 33),
        ("id", "Z" * 32),
        *((name, value) for name in ("sigma_min", "sigma_max") for value in (None, math.nan, -0.5, -math.inf)),
    ],
)
def test_contradictions_name_the_first_row(column: str, value: object) -> None:
    good = rows(6)[column].to_pylist()
    values = [*good[:2], value, good[3], value, good[5]]
    with pytest.raises(UserError) as error:
        check_rows(rows(6, **{column: values}), "m.parquet")
    message = str(error.value)
    assert message.startswith("row 2 of m.parquet (")
    assert f"its {column} is {value!r}" in message
    assert "\n" not in message


def test_the_first_of_several_contradictions_is_named() -> None:
    table = rows(4, role=["pool", "pool", "pool", "x"], sigma_max=[0.0, 0.0, math.nan, 0.0], status=["ok"] * 3 + ["y"])
    with pytest.raises(UserError, match=r"row 2 of it .* its sigma_max"):
        check_rows(table, "it")


def test_chunks_and_categories_do_not_matter() -> None:
    table = pa.concat_tables([rows(3), rows(3, uri=["x", "y", "z"], role=["clean", "pool", "judge"])])
    with pytest.raises(UserError, match="row 5 of it"):
        check_rows(table, "it")
