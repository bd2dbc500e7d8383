"""Which pictures the page shows."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.query import connect
from ambient.curate.report.aggregates import number_groups
from ambient.curate.report.gallery import Gallery, choose, clean_references, score_columns
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
    border = ok[math.ceil(0.9 * len(ok)) - 1]
    nearest = sorted(ok, key=lambda value: abs(value - border))[:6]
    assert chosen(galleries["border sharpness"], table, "sharpness") == nearest
    assert f"{border:.4g}" in galleries["border sharpness"].note
