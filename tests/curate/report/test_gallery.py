"""Which pictures the page shows."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.query import connect
from ambient.curate.ranks import DEFAULT_SHARE
from ambient.curate.report.aggregates import number_groups
from ambient.curate.report.gallery import Gallery, choose, clean_references, score_columns
from ambient.curate.scores import SCORES
from manifests import rows, write

NUM = 400


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(0)
    sigma = np.exp(random.normal(size=NUM))
    sigma[:40] = 0
    sigma[40:60] = np.inf
    role = ["clean" if i < 20 else "pool" for i in range(NUM)]
    status = ["ok" if i < NUM - 50 else "duplicate" for i in range(NUM)]
    source = ["ab"[i % 2] for i in range(NUM)]
    table = rows(NUM, sigma_min=sigma.tolist(), role=role, status=status, source=source)
    table = table.append_column("sharpness", pa.array(random.normal(size=NUM), pa.float32()))
    return table.append_column('odd "name"', pa.array([None] * NUM, pa.float32()))


@pytest.fixture
def galleries(table: pa.Table, tmp_path: Path) -> dict[str, Gallery]:
    with connect(write(tmp_path / "m.parquet", table)) as connection:
        number_groups(connection)
        assert score_columns(connection) == ["sharpness", 'odd "name"']
        references = clean_references(connection)
        assert choose(connection) == choose(connection)
        found = {gallery.key: gallery for gallery in choose(connection)}
    roles = dict(zip(table["uri"].to_pylist(), table["role"].to_pylist(), strict=True))
    assert sorted(references) == sorted(uri for uri, role in roles.items() if role == "clean")
    return found


def chosen(gallery: Gallery, table: pa.Table, column: str) -> list:
    values = dict(zip(table["uri"].to_pylist(), table[column].to_pylist(), strict=True))
    return [values[uri] for uri in gallery.uris]


def test_galleries_hold_what_their_titles_say(galleries: dict[str, Gallery], table: pa.Table) -> None:
    assert list(galleries) == [
        "trust",
        "never",
        "zero",
        "clean",
        "best sharpness",
        "border sharpness",
        "worst sharpness",
    ]
    for gallery in galleries.values():
        assert len(set(gallery.uris)) == len(gallery.uris)
        assert set(chosen(gallery, table, "status")) == {"ok"}
        assert set(chosen(gallery, table, "role")) <= ({"clean"} if gallery.key == "clean" else {"pool", "clean"})
    assert set(chosen(galleries["never"], table, "sigma_min")) == {math.inf}
    assert set(chosen(galleries["zero"], table, "sigma_min")) == {0}
    assert "clean" not in chosen(galleries["zero"], table, "role")


def test_trust_is_evenly_spaced_by_rank_in_each_source(galleries: dict[str, Gallery], table: pa.Table) -> None:
    sigma, source = (chosen(galleries["trust"], table, name) for name in ("sigma_min", "source"))
    assert sigma == sorted(sigma)
    everything = table.to_pylist()
    for name in "ab":
        mine = sorted(
            r["sigma_min"]
            for r in everything
            if r["source"] == name and r["status"] == "ok" and r["role"] == "pool" and 0 < r["sigma_min"] < math.inf
        )
        ranks = [mine.index(s) / len(mine) for s, where in zip(sigma, source, strict=True) if where == name]
        assert ranks == pytest.approx([(i + 0.5) / 6 for i in range(6)], abs=0.02)


def test_extremes_of_a_score(galleries: dict[str, Gallery], table: pa.Table) -> None:
    ok = sorted(r["sharpness"] for r in table.to_pylist() if r["status"] == "ok")
    assert chosen(galleries["best sharpness"], table, "sharpness") == ok[:-7:-1]
    assert chosen(galleries["worst sharpness"], table, "sharpness") == ok[:6]
    border = ok[math.ceil((1 - DEFAULT_SHARE) * len(ok)) - 1]
    nearest = sorted(ok, key=lambda value: abs(value - border))[:6]
    assert chosen(galleries["border sharpness"], table, "sharpness") == nearest
    note = galleries["border sharpness"].note
    assert note == f"Around sharpness = {border:.4g}, above which the best 5% lie."


def shown(tmp_path: Path, **scores: list[float]) -> dict[str, Gallery]:
    table = rows(100)
    for name, values in scores.items():
        table = table.append_column(name, pa.array(values, pa.float32()))
    with connect(write(tmp_path / "scored.parquet", table)) as connection:
        number_groups(connection)
        return {gallery.title: gallery for gallery in choose(connection) if gallery.score}


def test_the_best_by_a_score_are_at_its_good_end(tmp_path: Path) -> None:
    """Little noise is good; of brightness, and of a score that nobody knows, neither end is."""
    values = [math.nan, None, *map(float, range(98))]
    galleries = shown(tmp_path, noise=values, brightness=values, mine=values)
    lowest, highest = ([f"{i:07d}.png" for i in at] for at in (range(2, 8), range(99, 93, -1)))
    expected = {("noise: best", "Lowest noise."): lowest, ("noise: worst", "Highest noise."): highest}
    for name in ("brightness", "mine"):
        expected |= {(f"{name}: highest", f"Highest {name}."): highest, (f"{name}: lowest", f"Lowest {name}."): lowest}
    found = {(title, g.note): g.uris for title, g in galleries.items() if not title.endswith("border")}
    assert found == expected
    assert galleries["noise: border"].note == "Around noise = 4, below which the best 5% lie."
    assert galleries["brightness: border"].note == "Around brightness = 93, above which the highest 5% lie."
    assert set(galleries["noise: border"].uris) < {f"{i:07d}.png" for i in range(2, 12)}


def test_scores_that_were_added_come_before_the_built_in_ones(tmp_path: Path) -> None:
    values = [float(i) for i in range(100)]
    galleries = shown(tmp_path, **dict.fromkeys([*SCORES, "clipiqa"], values))
    names = list(dict.fromkeys(gallery.score for gallery in galleries.values()))
    assert names == ["clipiqa", *list(SCORES)[:7]]


def test_infinite_scores_are_at_an_end(tmp_path: Path) -> None:
    galleries = shown(tmp_path, mine=[math.inf] * 10 + [0.0] * 90)
    assert set(galleries["mine: highest"].uris) < {f"{i:07d}.png" for i in range(10)}
