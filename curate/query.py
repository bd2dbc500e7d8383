"""SQL over a manifest by DuckDB. A query sees the manifest and nothing else: no other file, no network, no settings."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds

from ..schemas.errors import UserError
from ..schemas.manifest import read_metadata
from ..schemas.scored import is_scored_only

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
    connection.register("sigma_grid", pa.table({"sigma": pa.array(metadata.sigma_grid, pa.float64())}))
    connection.execute(files(__package__.rpartition(".")[0]).joinpath("schemas", "views.sql").read_text())
    return connection


def locked() -> "duckdb.DuckDBPyConnection":
    """An empty in-memory database that can reach no file, network, extension or Python variable."""
    import duckdb

    return duckdb.connect(":memory:", config=_LOCKED)


def query(manifest: Path, sql: str) -> pa.Table:
    """Result of one statement; of columns that share a name the later ones are numbered, as in ``uri_1``.

    Raises UserError with DuckDB's own message when it is wrong or not allowed.
    """
    with connect(manifest) as connection:
        return run(connection, sql)


def run(connection: "duckdb.DuckDBPyConnection", sql: str) -> pa.Table:
    """Result of a statement as an Arrow table; see ``query``."""
    import duckdb

    try:
        if (count := len(connection.extract_statements(sql))) != 1:
            raise UserError(f"SQL: one statement is needed, not {count}")
        result = connection.sql(sql)
        return _distinct_names(result.to_arrow_table()) if result is not None else pa.table({})
    except duckdb.Error as error:
        raise UserError(f"SQL: {' '.join(str(error).split())}") from error


def matching(table: pa.Table, predicate: str, column: str) -> list[Any]:
    """Values of a column in the rows of a table where a SQL predicate holds, in the table's order."""
    with locked() as connection:
        connection.register("records", table)
        values: list[Any] = run(connection, f"SELECT {column} FROM records WHERE ({predicate}\n)")[column].to_pylist()
    return values


def _distinct_names(table: pa.Table) -> pa.Table:
    """A join has columns of the same name; CSV, JSON and rows as dictionaries need different ones."""
    names: list[str] = []
    for name in table.column_names:
        distinct, number = name, 1
        while distinct in names:
            distinct, number = f"{name}_{number}", number + 1
        names.append(distinct)
    return table.rename_columns(names)
