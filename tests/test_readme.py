"""What the README shows is true: its code and every SQL statement run, and every command is there."""

import re
from pathlib import Path

import ambient
import pyarrow as pa
import pytest
import torch
from ambient import cli
from ambient.curate.query import query
from ambient.curate.scores import SCORES
from ambient.schemas.manifest import ANNOTATION
from manifests import rows, write
from small_pool import write_pool
from torch import Tensor, nn

README = (Path(ambient.__path__[0]) / "README.md").read_text()


class Enough(Exception):  # noqa: N818 (nothing is wrong)
    pass


class Model(nn.Module):
    """A denoiser of one weight, and an optimiser that has enough after 20 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.sigma: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigma.append(sigma)
        return self.gain * x

    def step(self) -> None:
        with torch.no_grad():
            self.gain -= 0.02 * self.gain.grad.sign()
        if len(self.sigma) == 20:
            raise Enough


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_in_your_own_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README[README.index("## In your own trainer") :]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    write_pool(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = Model()
    with pytest.raises(Enough):
        exec(code, {"model": model, "optimizer": model})
    assert len(torch.cat(model.sigma).unique()) == 20 * 64
    assert float(model.gain.detach()) > 0.1  # it has begun to learn


def test_the_code_is_short() -> None:
    section = README[README.index("## In your own trainer") :]
    lines = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert sum(bool(line) and not line.startswith(("from", "import")) for line in lines) <= 10


STATEMENTS = [
    statement
    for block in re.findall(r"```sql\n(.*?)```", README[: README.index("## Ten questions")], re.DOTALL)
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
    assert len(STATEMENTS) >= 5


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_sql_statement_of_the_readme_runs_and_finds_something(manifest: Path, statement: str) -> None:
    assert query(manifest, statement).num_rows > 0


def test_every_command_is_in_the_readme() -> None:
    for command in cli.app.registered_commands:
        assert f"ambient {command.callback.__name__}" in README
