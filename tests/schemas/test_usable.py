"""``usable(sigma)``: Python, the SQL macro and the views agree with each other and with brute force."""

import math
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from ambient.curate.query import connect
from ambient.schemas.usable import BETA, beta_of, usable
from manifests import METADATA, rows, write

NUM = 400


def random_thresholds(random: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """(NUM,) float32 values, a third of them 0 or inf."""
    special = random.choice([0.0, math.inf], NUM)
    return np.where(random.random(NUM) < 1 / 3, special, values).astype(np.float32)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(0)
    low = random_thresholds(random, random.lognormal(size=NUM))
    # The levels of the grid themselves, so that views meet equality.
    low[:40:4], low[1:40:4] = 0.1, 1.0
    high = random_thresholds(random, random.choice(METADATA.sigma_grid, NUM))
    return rows(
        NUM,
        sigma_min=low.tolist(),
        sigma_max=np.where(random.random(NUM) < 0.5, high, 0).tolist(),
        status=random.choice(["ok", "ok", "ok", "unreadable", "duplicate"], NUM).tolist(),
        role=random.choice(["clean", "pool"], NUM).tolist(),
        source=random.choice(["a", "b", "c d", "é"], NUM).tolist(),
    )


@pytest.fixture(scope="module")
def connection(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with connect(write(tmp_path_factory.mktemp("usable") / "m.parquet", table)) as connection:
        yield connection


def brute_force(table: pa.Table, sigma: float, beta: float = BETA) -> list[str]:
    return [
        row["uri"]
        for row in table.to_pylist()
        if row["status"] == "ok" and (sigma > beta * row["sigma_min"] or sigma < row["sigma_max"])
    ]


def asked(connection, text: str) -> list:
    return connection.execute(text).fetchall()


def test_beta_from_the_buffer() -> None:
    """At sigma = beta * sigma_min, 1 / alpha = sigma^2 / (sigma^2 - sigma_min^2) is the buffer."""
    for buffer in (1.5, 2.0, 4.0):
        beta = beta_of(buffer)
        assert beta**2 / (beta**2 - 1) == pytest.approx(buffer)
    assert beta_of(4) == BETA


def test_sql_says_beta_to_the_last_bit() -> None:
    sql = files("ambient.schemas").joinpath("views.sql").read_text()
    numbers = re.findall(r"\b1\.15\d{6,}e0\b", sql)
    assert len(numbers) == 2  # the macro's default and the view `coverage`
    assert {float(number) for number in numbers} == {BETA}


def test_sql_and_python_and_brute_force_agree(connection, table: pa.Table) -> None:
    random = np.random.default_rng(1)
    low, high = (table[name].to_numpy().astype(np.float64) for name in ("sigma_min", "sigma_max"))
    ok = np.array(table["status"].to_pylist()) == "ok"
    finite, finite_high = low[np.isfinite(low)], high[np.isfinite(high)]
    edges = BETA * finite[:30]
    levels = [*random.lognormal(size=20), *edges, *np.nextafter(edges, math.inf), *finite_high[:30], *finite[:10], 0.0]
    for sigma in map(float, levels):
        expected = brute_force(table, sigma)
        assert [uri for (uri,) in asked(connection, f"SELECT uri FROM usable({sigma!r}::DOUBLE)")] == expected
        mask = usable(np.float64(sigma), low, high) & ok
        assert np.array(table["uri"].to_pylist())[mask].tolist() == expected


@pytest.mark.parametrize("beta", [1.0, math.sqrt(2)])
def test_another_beta(connection, table: pa.Table, beta: float) -> None:
    found = asked(connection, f"SELECT uri FROM usable(1.0, beta := {beta!r}::DOUBLE)")
    assert [uri for (uri,) in found] == brute_force(table, 1.0, beta)
    assert len(brute_force(table, 1.0, beta)) != len(brute_force(table, 1.0))


def test_edges() -> None:
    low, sigma = np.float64(0.7), np.float64(BETA * 0.7)
    zero, inf = np.float64(0.0), np.float64(math.inf)
    assert not usable(sigma, low, zero)  # exactly beta * sigma_min is too low
    assert usable(np.nextafter(sigma, inf), low, zero)
    assert not usable(np.float64(0.3), inf, np.float64(0.3))  # exactly sigma_max is too high
    assert usable(np.nextafter(np.float64(0.3), zero), inf, np.float64(0.3))
    assert usable(np.float64(1e-9), zero, zero)
    assert not usable(zero, zero, zero)
    assert not usable(np.float64(1e9), inf, zero)
    assert usable(np.float64(1e9), inf, inf)


def test_tensors_and_polars_expressions() -> None:
    low, high = [0.0, 1.0, 2.0, math.inf], [0.0, 0.0, 1.5, 0.0]
    expected = usable(np.float64(1.2), np.array(low), np.array(high)).tolist()
    assert expected == [True, True, True, False]
    tensors = (torch.tensor(values, dtype=torch.float64) for values in (low, high))
    assert usable(torch.tensor(1.2, dtype=torch.float64), *tensors).tolist() == expected
    frame = pl.DataFrame({"low": low, "high": high})
    assert frame.select(usable(pl.lit(1.2), pl.col("low"), pl.col("high"))).to_series().to_list() == expected


def test_coverage_counts_every_level_of_the_grid(connection, table: pa.Table) -> None:
    roles = dict(zip(table["uri"].to_pylist(), table["role"].to_pylist(), strict=True))
    ok = table["status"].to_pylist().count("ok")
    expected = []
    for sigma in METADATA.sigma_grid:
        uris = brute_force(table, sigma)
        clean = sum(roles[uri] == "clean" for uri in uris)
        expected.append((sigma, len(uris), clean, round(len(uris) / ok, 4)))
    assert asked(connection, "FROM coverage") == expected


def test_coverage_says_zero_where_nothing_is_usable(tmp_path: Path) -> None:
    with connect(write(tmp_path / "m.parquet", rows(5, sigma_min=1.0))) as connection:
        found = asked(connection, "SELECT sigma, usable, clean, share FROM coverage")
    assert found == [(0.01, 0, 0, 0), (0.1, 0, 0, 0), (1.0, 0, 0, 0), (10.0, 5, 0, 1)]


def test_by_source_against_polars(connection, table: pa.Table) -> None:
    frame = pl.from_arrow(table)
    ok = pl.col("status").cast(pl.String) == "ok"
    low = pl.col("sigma_min").filter(ok & (pl.col("role").cast(pl.String) != "clean"))
    expected = frame.group_by(pl.col("source").cast(pl.String)).agg(
        pl.len().alias("pictures"),
        ok.sum().alias("ok"),
        (ok & (pl.col("role").cast(pl.String) == "clean")).sum().alias("clean"),
        *(low.quantile(q, "equiprobable").round(3).alias(str(q)) for q in (0.1, 0.5, 0.9)),
        pl.col("sigma_min").filter(ok).is_infinite().sum().alias("never"),
    )
    found = asked(connection, "FROM by_source")
    assert [row[:4] for row in found] == [row[:4] for row in expected.sort("source").rows()]
    assert len(found) == 4
    for mine, theirs in zip(found, expected.sort("source").rows(), strict=True):
        assert mine[4:] == pytest.approx(theirs[4:], abs=1e-6)


def test_a_source_that_can_never_be_used_has_no_nan(tmp_path: Path) -> None:
    table = rows(8, sigma_min=math.inf, source=["a"] * 4 + ["b"] * 4, status=["ok"] * 4 + ["unreadable"] * 4)
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        found = asked(connection, "FROM by_source")
    assert found == [("a", 4, 4, 0, math.inf, math.inf, math.inf, 4), ("b", 4, 0, 0, None, None, None, 0)]
