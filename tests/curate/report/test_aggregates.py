"""The report's numbers against brute force in Python."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.query import connect
from ambient.curate.report import aggregates
from ambient.curate.report.aggregates import NUM_BINS, curves, groups, number_groups, statuses, totals
from ambient.schemas.errors import UserError
from ambient.schemas.usable import usable
from manifests import METADATA, rows, write

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

GRID = np.geomspace(0.01, 80, 48).tolist()
SOURCES = ["a", "b", "c", "d'; DROP TABLE x; --", "e"]


def awkward_rows(num: int = 600, seed: int = 0) -> pa.Table:
    """Sources of different size, clean and not, unusable rows, thresholds of 0 and inf, some with low-noise use."""
    random = np.random.default_rng(seed)
    ok = random.random(num) > 0.1
    clean = random.random(num) < 0.2
    sigma = np.where(random.random(num) < 0.1, np.inf, np.exp(random.normal(-1, 2, num)))
    sigma = np.where(clean | (random.random(num) < 0.1), 0, sigma).astype(np.float32)
    low = np.where(random.random(num) < 0.3, 0.05, 0).astype(np.float32)
    return rows(
        num,
        source=[SOURCES[min(4, int(5 * x**2))] for x in random.random(num)],
        label=[None if x < 0.1 else int(x * 4) for x in random.random(num)],
        status=["ok" if x else "duplicate" for x in ok],
        reason=[None if x else f"same content as {i}.png" for i, x in enumerate(ok)],
        role=["clean" if c else "pool" for c in clean],
        sigma_min=[float(s) if x else None for s, x in zip(sigma, ok, strict=True)],
        sigma_max=[float(s) if x else None for s, x in zip(low, ok, strict=True)],
        p_clean=[random.random(48).tolist() if x else None for x in ok],
    )


@pytest.fixture
def table() -> pa.Table:
    return awkward_rows()


@pytest.fixture
def connection(table: pa.Table, tmp_path: Path) -> "Iterator[DuckDBPyConnection]":
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        number_groups(connection)
        yield connection


@pytest.mark.parametrize("column", ["source", "label"])
def test_groups_are_what_counting_gives(column: str, table: pa.Table, connection: "DuckDBPyConnection") -> None:
    found = groups(connection, column, GRID)
    all_rows = table.to_pylist()
    sizes = Counter(row[column] for row in all_rows)
    unnamed = sizes.pop(None, 0)
    by_size = [str(name) for name, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))]
    assert [g["name"] for g in found] == by_size + ([None] if unnamed else [])
    for group in found:
        mine = [r for r in all_rows if group["name"] == (None if r[column] is None else str(r[column]))]
        ok = [r for r in mine if r["status"] == "ok"]
        others = [r["sigma_min"] for r in ok if r["role"] == "pool"]
        assert group["pictures"] == len(mine)
        assert group["ok"] == len(ok)
        assert group["clean"] == len(ok) - len(others)
        assert (group["zero"], group["never"]) == (others.count(0), others.count(math.inf))
        low, high = (np.array([r[name] for r in ok], dtype=np.float64) for name in ("sigma_min", "sigma_max"))
        assert group["usable"] == [int(usable(np.float64(s), low, high).sum()) for s in GRID]
        assert group["quantiles"][1] in low
        assert np.mean(low <= group["quantiles"][1]) >= 0.5
        edges = np.geomspace(GRID[0], GRID[-1], NUM_BINS + 1)
        finite = np.array([s for s in others if 0 < s < math.inf])
        assert group["bins"] == np.histogram(finite.clip(edges[0], edges[-1] * 0.999), edges)[0].tolist()


def test_small_groups_share_a_line(table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregates, "MAX_GROUPS", 2)
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        number_groups(connection)
        found = groups(connection, "source", GRID)
    assert [g["name"] is None for g in found] == [False, False, True]
    assert sum(g["pictures"] for g in found) == len(table)
    assert found[0]["pictures"] >= found[1]["pictures"]


def test_usable_agrees_with_the_view(connection: "DuckDBPyConnection") -> None:
    found = np.sum([g["usable"] for g in groups(connection, "source", METADATA.sigma_grid)], axis=0)
    assert found.tolist() == [n for (n,) in connection.sql("SELECT usable FROM coverage").fetchall()]


def test_whose_word_it_is_that_a_picture_is_usable_everywhere(table: pa.Table, tmp_path: Path) -> None:
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        if row["method"]:
            row["method"] = ("classifier", "rule", "source", "quantile", "fixed")[number % 5]
    said = [row for row in rows if row["status"] == "ok" and row["role"] == "pool" and row["sigma_min"] == 0]
    said = [row for row in said if row["method"] in ("rule", "quantile", "fixed")]
    with connect(write(tmp_path / "m.parquet", pa.Table.from_pylist(rows, schema=table.schema))) as connection:
        number_groups(connection)
        assert 0 < totals(connection)["said"] == len(said) < totals(connection)["zero"]
        by_source = {group["name"]: group["said"] for group in groups(connection, "source", GRID)}
    assert by_source == {name: sum(str(row["source"]) == name for row in said) for name in by_source}


def test_totals(table: pa.Table, connection: "DuckDBPyConnection") -> None:
    found = totals(connection)
    ok = [r for r in table.to_pylist() if r["status"] == "ok"]
    others = sorted(r["sigma_min"] for r in ok if r["role"] == "pool")
    assert found["pictures"] == len(table)
    assert found["ok"] == len(ok)
    assert found["clean"] == len(ok) - len(others)
    assert found["zero"] == others.count(0)
    assert found["never"] == others.count(math.inf)
    assert found["low_noise"] == sum(r["sigma_max"] > 0 for r in ok)
    assert found["quantiles"] == [others[math.ceil(q * len(others)) - 1] for q in (0.1, 0.5, 0.9)]
    assert found["methods"] == {"classifier": len(ok)}
    assert (found["sources"], found["labels"]) == (5, 4)


def test_reasons_that_differ_in_numbers_are_one(tmp_path: Path) -> None:
    table = rows(
        6,
        status=["ok", "duplicate", "duplicate", "too_small", "too_small", "unreadable"],
        reason=[None, "same content as a", "same content as b", "7 x 9 pixels", "3 x 10 pixels", "[Errno 2] gone"],
    )
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        found = statuses(connection)
    assert [(s["status"], s["reason"], s["pictures"]) for s in found] == [
        ("ok", None, 1),
        ("duplicate", "same content as another picture", 2),
        ("too_small", "N x N pixels", 2),
        ("unreadable", "[Errno 2] gone", 1),
    ]
    assert found[1]["example"] == "0000001.png"


def test_reasons_without_a_line_of_their_own_share_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregates, "_MAX_REASONS", 3)
    reasons = ["a", "a", "b", "b", "c", "d", "e", "f"]
    table = rows(9, status=["ok"] + ["unreadable"] * 6 + ["excluded"] * 2, reason=[None, *reasons])
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        found = statuses(connection)
    assert [(s["status"], s["reason"], s["pictures"]) for s in found] == [
        ("ok", None, 1),
        ("unreadable", "a", 2),
        ("unreadable", "b", 2),
        ("excluded", "other reasons", 2),
        ("unreadable", "other reasons", 2),
    ]
    assert found[-1]["example"] == "0000005.png"
    assert type(found[-1]["pictures"]) is int


def test_curves_are_means_and_quantiles(table: pa.Table, tmp_path: Path, connection: "DuckDBPyConnection") -> None:
    found = curves(connection, tmp_path / "m.parquet", GRID, 0.45)
    ok = [r for r in table.to_pylist() if r["status"] == "ok"]
    clean = np.array([r["p_clean"] for r in ok if r["role"] == "clean"])
    others = np.array([r["p_clean"] for r in ok if r["role"] == "pool"])
    np.testing.assert_allclose(found["clean"], clean.mean(axis=0))
    np.testing.assert_allclose(found["other"], others.mean(axis=0))
    assert [p["role"] for p in found["panels"]] == ["clean"] + ["pool"] * 5
    for panel in found["panels"][1:]:
        mine = np.array([r["p_clean"] for r in ok if r["role"] == "pool" and r["source"] == panel["name"]])
        assert panel["sampled"] == panel["pictures"] == len(mine)
        np.testing.assert_allclose(panel["mean"], mine.mean(axis=0))
        np.testing.assert_allclose(panel["p90"], np.quantile(mine, 0.9, axis=0))


def test_large_panels_are_sampled_without_bias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8,000 curves, half of them 0.2 and half 0.6; and the mean, 0.4 + 0.1 ln(sigma), crosses 0.45 at exp(0.5)."""
    monkeypatch.setattr(aggregates, "_CURVES_PER_PANEL", 1000)
    rise = 0.1 * np.log(GRID)
    curve = [(np.array(0.2 if i % 2 else 0.6) + rise).tolist() for i in range(8000)]
    path = write(tmp_path / "m.parquet", rows(8000, p_clean=curve))
    with connect(path) as connection:
        number_groups(connection)
        (panel,) = curves(connection, path, GRID, 0.45)["panels"]
    assert 800 < panel["sampled"] < 1200
    assert panel["pictures"] == 8000
    np.testing.assert_allclose(panel["mean"], 0.4 + rise, atol=0.02)
    assert panel["crossing"] == pytest.approx(math.exp(0.5), rel=0.2)


def test_no_usable_picture(tmp_path: Path) -> None:
    table = rows(2, status="unreadable", p_clean=None, sigma_min=None, sigma_max=None)
    path = write(tmp_path / "m.parquet", table)
    with connect(path) as connection:
        number_groups(connection)
        assert totals(connection)["ok"] == 0
        (group,) = groups(connection, "source", GRID)
        assert (group["ok"], group["usable"], group["quantiles"]) == (0, [0] * 48, None)
        assert curves(connection, path, GRID, 0.45) == {"panels": [], "clean": None, "other": None}


def test_what_the_database_refuses_is_one_line(table: pa.Table, tmp_path: Path) -> None:
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        number_groups(connection)
        with pytest.raises(UserError, match=r"SQL: .*source_groups") as error:
            number_groups(connection)
        assert "\n" not in str(error.value)
        curves(connection, tmp_path / "m.parquet", GRID, 0.45)
        with pytest.raises(UserError, match=r"SQL: .*panels"):
            curves(connection, tmp_path / "m.parquet", GRID, 0.45)
