"""SQL over a manifest by DuckDB. A query sees the manifest and nothing else: no other file, no network, no settings."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ..schemas.errors import UserError
from ..schemas.manifest import read_metadata
from ..schemas.scored import is_scored_only
from .threshold import sigma_grid

if TYPE_CHECKING:
    import duckdb

_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",  # else a name in SQL could reach a variable of this process
    "lock_configuration": "true",
}


def connect(manifest: Path) -> "duckdb.DuckDBPyConnection":
    """An in-memory database with the view ``manifest``, the macro ``usable(s)`` and the views of schemas/views.sql.

    A table of `ambient score` that has no thresholds is the view ``manifest`` alone. Raises UserError when there is
    neither at the path.
    """
    if is_scored_only(manifest):
        connection = locked()
        connection.register("manifest", ds.dataset(manifest))
        return connection
    metadata = read_metadata(manifest)
    connection = locked()
    connection.register("manifest_file", ds.dataset(manifest))
    grid = metadata.sigma_grid or sigma_grid().tolist()  # none where no classifier was asked
    connection.register("sigma_grid", pa.table({"sigma": pa.array(grid, pa.float64())}))
    connection.execute(files(__package__.rpartition(".")[0]).joinpath("schemas", "views.sql").read_text())
    return connection


def locked() -> "duckdb.DuckDBPyConnection":
    """An empty in-memory database that can reach no file, network, extension or Python variable."""
    import duckdb

    return duckdb.connect(":memory:", config=_LOCKED)


def query(manifest: Path, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
    """Result of one statement; of columns that share a name the later ones are numbered, as in ``uri_1``.

    parameters: values of ``$name`` in the statement. Raises UserError with DuckDB's own message when it is wrong or not
    allowed. What a signal handler raises stops it.
    """
    with connect(manifest) as connection:
        return run_stoppable(connection, sql, parameters)


def run_stoppable(
    connection: "duckdb.DuckDBPyConnection", sql: str, parameters: dict[str, Any] | None = None
) -> pa.Table:
    """``run`` in a thread, so that what a signal handler raises here stops it: DuckDB may look for signals too late."""
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(run, connection, sql, parameters)
        try:
            return result.result()
        finally:
            if not result.done():
                connection.interrupt()


def run(connection: "duckdb.DuckDBPyConnection", sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
    """Result of a statement as an Arrow table; see ``query``."""
    import duckdb

    try:
        if (count := len(connection.extract_statements(sql))) != 1:
            raise UserError(f"SQL: one statement is needed, not {count}")
        result = connection.sql(sql, params=parameters)
        return _distinct_names(result.to_arrow_table()) if result is not None else pa.table({})
    except duckdb.Error as error:
        raise UserError(f"SQL: {' '.join(str(error).split())}") from error


def parameter(setting: str) -> tuple[str, Any]:
    """Name and value of ``name=value``: the value as JSON where it is, such as a number or a list, else as text."""
    name, equals, text = setting.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"a parameter is written name=value, such as s=0.5 for $s in the query, not {setting!r}")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def rows_of(manifest: Path, uris: pa.Array, columns: list[str] | None = None) -> pa.Table:
    """Columns, or all, of the rows with these uris, in the manifest's order.

    One row group at a time: the curves of all rows need not fit into memory.
    """
    found = []
    with pq.ParquetFile(manifest) as file:
        for group in range(file.num_row_groups):
            wanted = pc.is_in(file.read_row_group(group, columns=["uri"])["uri"], value_set=uris)
            if pc.any(wanted).as_py():
                found.append(file.read_row_group(group, columns=columns).filter(wanted))
        nothing = file.schema_arrow.empty_table()
    return pa.concat_tables([nothing.select(columns or nothing.column_names), *found]).unify_dictionaries()


def matching(table: pa.Table, predicate: str, column: str) -> list[Any]:
    """Values of a column in the rows of a table where a SQL predicate holds, in the table's order."""
    with locked() as connection:
        connection.register("records", table)
        values: list[Any] = run(connection, f"SELECT {column} FROM records WHERE ({predicate}\n)")[column].to_pylist()
    return values


def spare_manifests(out: Path, manifest: Path) -> None:
    """Raise UserError where a file that tells of a manifest would replace it, another manifest or a table of scores."""
    from .known import is_known

    if out.resolve() == manifest.resolve():
        raise UserError(f"{out} is the manifest itself: name another file")
    if is_known(out):
        raise UserError(f"{out} is a manifest or a table of scores: name another file, or remove it first")


def _distinct_names(table: pa.Table) -> pa.Table:
    """A join has columns of the same name; CSV, JSON and rows as dictionaries need different ones."""
    names: list[str] = []
    for name in table.column_names:
        distinct, number = name, 1
        while distinct in names:
            distinct, number = f"{name}_{number}", number + 1
        names.append(distinct)
    return table.rename_columns(names)
