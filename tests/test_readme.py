"""What the README shows is true: every SQL statement runs, and every command is there."""

import re
from pathlib import Path

import ambient
import pyarrow as pa
import pytest
from ambient import cli
from ambient.curate.query import query
from ambient.curate.scores import SCORES
from ambient.schemas.manifest import ANNOTATION
from manifests import rows, write

README = (Path(ambient.__file__).parent / "README.md").read_text()
STATEMENTS = [
    statement
    for block in re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    for statement in re.split(r"\n(?=SELECT|FROM|WITH)", block)
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Eight pictures of two sources with every score; the last cannot be used and has none."""
    table = rows(
        8,
        source=["a", "b"] * 4,
        status=["ok"] * 7 + ["unreadable"],
        reason=[None] * 7 + ["torn"],
        sigma_min=[0.0, 0.2] * 4,
    )
    place = table.column_names.index(ANNOTATION.names[0])
    for number, name in enumerate(SCORES):
        values = pa.array([float(number + i) for i in range(7)] + [None], pa.float32())
        table = table.add_column(place, name, values)
    first = pa.array([None, None, "0000000.png", *[None] * 5], pa.string())
    return write(tmp_path / "m.parquet", table.add_column(place, "near_duplicate_of", first))


def test_there_are_statements() -> None:
    assert len(STATEMENTS) >= 8


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_sql_statement_of_the_readme_runs_and_finds_something(manifest: Path, statement: str) -> None:
    assert query(manifest, statement).num_rows > 0


def test_every_command_is_in_the_readme() -> None:
    for command in cli.app.registered_commands:
        assert f"ambient {command.callback.__name__}" in README
