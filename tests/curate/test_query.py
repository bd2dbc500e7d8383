"""SQL over a manifest: what it shows, and what it cannot reach."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ambient.curate.ask import ask
from ambient.curate.query import (
    connect,
    locked,
    matching,
    parameter,
    query,
    rows_of,
    run,
    run_stoppable,
    spare_manifests,
)
from ambient.curate.threshold import sigma_grid
from ambient.schemas.errors import UserError
from ambient.schemas.scored import SCORED_KEY
from manifests import METADATA, rows, write


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    table = rows(6, sigma_min=[0.0, 0.1, 0.5, 1.0, math.inf, None], status=["ok"] * 5 + ["unreadable"])
    return write(tmp_path / "m.parquet", table)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret.csv").write_text("a,b\nswordfish,2\n")
    write(tmp_path / "other.parquet", rows(1, caption="swordfish"))
    return tmp_path


def refusal(manifest: Path, sql: str, parameters: dict | None = None) -> str:
    with pytest.raises(UserError) as error:
        query(manifest, sql, parameters)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("SQL: ")
    assert "swordfish" not in message
    return message


def test_views_and_macro(manifest: Path) -> None:
    assert query(manifest, "SELECT count(*) AS n, count(sigma_min) AS m FROM manifest").to_pylist() == [
        {"n": 6, "m": 5}
    ]
    assert query(manifest, "FROM usable(0.5)").num_rows == 2
    assert query(manifest, "FROM usable(0.5, beta := 0.9)").num_rows == 3
    assert query(manifest, "FROM by_source")["pictures"].to_pylist() == [6]
    assert query(manifest, "SELECT usable FROM coverage")["usable"].to_pylist() == [1, 1, 3, 4]
    assert query(manifest, "WITH t AS (FROM manifest) SELECT uri FROM t LIMIT 1").num_rows == 1
    assert set(query(manifest, "DESCRIBE manifest")["column_name"].to_pylist()) >= {"uri", "p_clean", "sigma_min"}


def test_coverage_without_a_classifier(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", rows(2, p_clean=None, method="fixed"), replace(METADATA, sigma_grid=[]))
    coverage = query(path, "FROM coverage")
    assert coverage["sigma"].to_pylist() == sigma_grid().tolist()
    assert (coverage["usable"][0].as_py(), coverage["usable"][-1].as_py()) == (0, 2)


def test_asking_imports_no_torch() -> None:
    code = "import sys, ambient.curate.ask, ambient.curate.prompt; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_manifests_and_tables_of_scores_are_spared(manifest: Path, tmp_path: Path) -> None:
    for name in (".", ".."):
        with pytest.raises(UserError, match="is the manifest itself: name another file"):
            spare_manifests(tmp_path / name / manifest.relative_to((tmp_path / name).resolve()), manifest)
    scored = tmp_path / "scores.parquet"
    pq.write_table(rows(1).replace_schema_metadata({SCORED_KEY: b"{}"}), scored)
    for out in (write(tmp_path / "other.parquet", rows(1)), scored):
        with pytest.raises(UserError, match="is a manifest or a table of scores"):
            spare_manifests(out, manifest)
        with pytest.raises(UserError, match="is a manifest or a table of scores"):
            ask(manifest, "FROM manifest", out=out)
    result, page = tmp_path / "result.parquet", tmp_path / "report.html"
    pq.write_table(query(manifest, "FROM manifest"), result)
    page.write_text("<!doctype html>")
    for out in (result, page, tmp_path / "new.parquet", tmp_path):
        spare_manifests(out, manifest)


def test_order_of_rows_and_types_of_columns(manifest: Path) -> None:
    table = query(manifest, "SELECT uri, p_clean, sigma_min, status FROM manifest")
    assert table["uri"].to_pylist() == [f"{i:07d}.png" for i in range(6)]
    assert table["sigma_min"].to_pylist() == pytest.approx([0.0, 0.1, 0.5, 1.0, math.inf, None])
    assert table["p_clean"].to_pylist()[0] == [0.0, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    "sql",
    [
        "FROM '{folder}/secret.csv'",
        "FROM '{folder}/other.parquet'",
        "FROM '{manifest}'",
        "FROM read_csv('{folder}/secret.csv')",
        "FROM read_text('{folder}/secret.csv')",
        "FROM read_blob('{folder}/*')",
        "FROM glob('{folder}/*')",
        "FROM parquet_metadata('{manifest}')",
        "FROM sniff_csv('{folder}/secret.csv')",
        "FROM read_json('https://example.invalid/x.json')",
        "COPY manifest TO '{folder}/new.parquet'",
        "COPY (SELECT 1) TO '{manifest}' (FORMAT parquet)",
        "COPY (SELECT 1) TO '/dev/stdout'",
        "EXPORT DATABASE '{folder}/new'",
        "IMPORT DATABASE '{folder}'",
        "ATTACH '{folder}/new.db'",
        "ATTACH '{folder}/new.db' AS x (READ_ONLY)",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{folder}/x.duckdb_extension'",
        "SET enable_external_access = true",
        "SET GLOBAL enable_external_access = true",
        "RESET enable_external_access",
        "PRAGMA enable_external_access = true",
        "SET lock_configuration = false",
        "SET python_enable_replacements = true",
        "SET memory_limit = '1TB'",
        "SET allowed_directories = ['/']",
        "SET temp_directory = '{folder}'",
        "INSERT INTO manifest SELECT * FROM manifest",
        "DELETE FROM manifest",
        "UPDATE manifest SET sigma_min = 0",
        "DELETE FROM manifest_file",
        "SELECT getenv('AMBIENT_SECRET')",
        "FROM python_table",
        "FROM manifests",
        "CREATE SECRET s (TYPE s3)",
        "CREATE TEMP TABLE t AS FROM read_csv('{folder}/secret.csv')",
        "CREATE VIEW v AS FROM '{folder}/other.parquet'",
        "FROM query('FROM read_csv(''{folder}/secret.csv'')')",
        "FROM query_table('{folder}/other.parquet')",
        "PREPARE p AS COPY manifest TO '{folder}/new.parquet'",
        "CALL enable_logging(storage := 'file', storage_path := '{folder}/log')",
        "PRAGMA enable_profiling = 'json'",
        "PRAGMA profiling_output = '{folder}/profile.json'",
        "SET home_directory = '{folder}'",
        "SET log_query_path = '{folder}/log'",
        "SET secret_directory = '{folder}'",
        "FORCE INSTALL json",
        "UPDATE EXTENSIONS",
        "CHECKPOINT x",
        "USE x",
        "DETACH memory",
        "EXPLAIN ANALYZE COPY manifest TO '{folder}/new.parquet'",
        "SELECT 1; COPY manifest TO '{folder}/new.parquet'",
        "COPY manifest TO '{folder}/new.parquet'; SELECT 1",
    ],
)
def test_a_query_sees_the_manifest_only_and_cannot_write(
    manifest: Path, secret: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMBIENT_SECRET", "swordfish")
    python_table = pa.table({"word": ["swordfish"]})
    before = {path.name: path.read_bytes() for path in secret.iterdir()}
    refusal(manifest, sql.format(folder=secret, manifest=manifest))
    assert {path.name: path.read_bytes() for path in secret.iterdir()} == before
    assert python_table.num_rows == 1


def test_no_relative_file_either(manifest: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(secret)
    for name in ("secret.csv", "m.parquet", "other.parquet"):
        refusal(manifest, f"FROM '{name}'")
        refusal(manifest, f'FROM "{name}"')
    assert len(os.listdir(secret)) == 3  # noqa: PTH208


def test_tables_of_its_own_are_allowed_and_gone_afterwards(manifest: Path) -> None:
    assert query(manifest, "CREATE TABLE mine AS FROM manifest").num_rows <= 1
    assert "mine" in refusal(manifest, "FROM mine")


@pytest.mark.parametrize("sql", ["", "   ", ";", "-- nothing", "SELECT 1; SELECT 2"])
def test_not_one_statement(manifest: Path, sql: str) -> None:
    assert "one statement is needed" in refusal(manifest, sql)


def test_a_semicolon_at_the_end_is_no_second_statement(manifest: Path) -> None:
    assert query(manifest, "SELECT 1 AS x;  -- done").to_pylist() == [{"x": 1}]


def test_errors_say_what_duckdb_says(manifest: Path) -> None:
    assert "syntax error" in refusal(manifest, "SELEC")
    assert "sigma_min" in refusal(manifest, "SELECT sigma_mim FROM manifest")
    assert "nothing" in refusal(manifest, "FROM nothing")
    refusal(manifest, "SELECT uri::INTEGER FROM manifest")
    refusal(manifest, "SELECT error('a\nb')")


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no manifest"):
        query(tmp_path / "none.parquet", "SELECT 1")


def test_columns_of_a_join_have_distinct_names(manifest: Path) -> None:
    table = query(manifest, "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a")
    assert len(set(table.column_names)) == 4
    assert table.column_names[0] == "a"
    assert [column[0].as_py() for column in table.columns] == [1, 2, 3, 4]


def test_rows_of(manifest: Path) -> None:
    wanted = pa.array(["0000004.png", "0000002.png", "none.png"])
    expected = query(manifest, "FROM manifest WHERE uri IN ('0000002.png', '0000004.png')")
    assert rows_of(manifest, wanted).to_pylist() == expected.to_pylist()
    assert rows_of(manifest, wanted, ["uri"]).to_pydict() == {"uri": ["0000002.png", "0000004.png"]}


def test_parameters_are_values_never_sql(manifest: Path) -> None:
    hostile = "'; DROP VIEW manifest; --"
    (row,) = query(
        manifest, "SELECT $text AS a, $n + 1 AS b, $yes AS c", {"text": hostile, "n": 2, "yes": True}
    ).to_pylist()
    assert row == {"a": hostile, "b": 3, "c": True}
    assert query(manifest, "FROM usable($s)", {"s": 0.5}).num_rows == 2
    assert query(manifest, "SELECT uri FROM manifest WHERE sigma_min IN $list", {"list": [0, 1]}).num_rows == 2
    refusal(manifest, "SELECT 1", {"s": 1})
    assert "parameters: s" in refusal(manifest, "SELECT $s")
    refusal(manifest, "FROM read_csv($file)", {"file": str(manifest)})
    refusal(manifest, "FROM query_table($name)", {"name": str(manifest)})


def test_parameters_as_text() -> None:
    texts = ["s=0.5", "n=7", "name=a b", "name=x=y", "flag=true", "none=null", 'text="7"', "list=[1, 2]", "s=inf", "t="]
    values = [0.5, 7, "a b", "x=y", True, None, "7", [1, 2], "inf", ""]
    assert [parameter(text) for text in texts] == [
        (text.partition("=")[0], value) for text, value in zip(texts, values, strict=True)
    ]
    for bad in ("s", "=1", "a b=1", "$s=1"):
        with pytest.raises(UserError, match="name=value"):
            parameter(bad)


def test_what_a_signal_handler_raises_stops_a_statement(manifest: Path) -> None:
    endless = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with connect(manifest) as connection:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                run_stoppable(connection, endless)
            assert time.monotonic() - start < 20
            assert run(connection, "SELECT count(*) AS n FROM manifest")["n"].to_pylist() == [6]
    finally:
        signal.signal(signal.SIGALRM, before)


RECORDS = pa.table({"uri": ["a", "b", "c", "d"], "source": ["x", "y", "x", None], "width": [1, 2, 3, 4]})


def test_matching_keeps_the_order_of_the_table() -> None:
    assert matching(RECORDS, "source = 'x' OR width > 3", "uri") == ["a", "c", "d"]
    assert matching(RECORDS, "true -- all", "uri") == ["a", "b", "c", "d"]
    assert matching(RECORDS, "false", "uri") == []


@pytest.mark.parametrize(
    "predicate",
    [
        "1=1) UNION ALL (SELECT content FROM read_text('{folder}/secret.csv')",
        "uri IN (SELECT a FROM '{folder}/secret.csv')",
        "EXISTS (FROM read_blob('{folder}/secret.csv'))",
        "true); COPY records TO '{folder}/new.csv'; SELECT (1",
        "true); SELECT 1 AS x; --",
        "true); SET enable_external_access = true; SELECT (1",
        "",
        ")",
        "nothing > 1",
    ],
)
def test_a_predicate_reaches_no_file_and_is_no_second_statement(secret: Path, predicate: str) -> None:
    before = sorted(path.name for path in secret.iterdir())
    with pytest.raises(UserError) as error:
        matching(RECORDS, predicate.format(folder=secret), "uri")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in secret.iterdir()) == before


def test_variables_of_this_process_are_no_tables() -> None:
    """DuckDB looks in the frame that asks, so the question is asked from here."""
    python_table = pa.table({"word": ["swordfish"]})
    with locked() as connection:
        for ask in (connection.sql, connection.execute, connection.query):
            with pytest.raises(duckdb.Error, match="python_table"):
                ask("FROM python_table")
    assert python_table.num_rows == 1


def test_run_on_a_locked_database_has_no_tables() -> None:
    with locked() as connection, pytest.raises(UserError, match="manifest"):
        run(connection, "FROM manifest")
