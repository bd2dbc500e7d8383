"""How much comes from outside the clean set: against densities that are known, and in manifests."""

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.columns import lists
from ambient.curate.composition import pool_share
from scipy import integrate, stats

GRID = np.array([0.1, 1.0, 10.0])
NUM_CLEAN, NUM = 300, 4000


def table_of(sigma_min: np.ndarray, methods: str = "classifier", sources: list[str] | None = None) -> pa.Table:
    """Clean pictures, then others with these thresholds."""
    words = ["clean"] * NUM_CLEAN + ["pool"] * len(sigma_min)
    return pa.table(
        {
            "status": ["ok"] * len(words),
            "role": words,
            "source": pa.array(["clean"] * NUM_CLEAN + (sources or ["pool"] * len(sigma_min))).dictionary_encode(),
            "method": [word if word == "clean" else methods for word in words],
            "sigma_min": pa.array(np.concatenate([np.zeros(NUM_CLEAN), sigma_min]), pa.float32()),
            "sigma_max": pa.array(np.zeros(len(words)), pa.float32()),
        }
    )


def part_of(p: np.ndarray, first: int = NUM_CLEAN) -> pa.Table:
    return pa.table({"row": np.arange(first, first + len(p)), "p_clean": lists(p, pa.float32())})


def densities(shift: float) -> tuple[stats.rv_continuous, stats.rv_continuous]:
    return stats.norm(0, 1), stats.norm(shift, 1)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_it_is_what_the_others_stand_for_of_the_clean_density(shift: float) -> None:
    """N c + M d pictures at x, of which all with p above 0.45 are usable: the integral of c M d / (N c + M d) there."""
    clean, other = densities(shift)
    x = other.rvs(NUM, random_state=np.random.default_rng(0))
    p = clean.pdf(x) / (clean.pdf(x) + other.pdf(x))
    table = table_of(np.where(p > 0.45, 0.0, 50.0))
    found = pool_share(table, GRID, [part_of(np.repeat(p[:, None], 3, axis=1))])

    def stands_for(at: float) -> float:
        c, d = float(clean.pdf(at)), float(other.pdf(at))
        return c * NUM * d / (NUM_CLEAN * c + NUM * d) if c / (c + d) > 0.45 else 0.0

    expected = integrate.quad(stands_for, -8, 8, points=[shift / 2], limit=200)[0]
    assert found[:2] == pytest.approx([expected] * 2, rel=0.05)
    assert found[0] <= NUM / (NUM + NUM_CLEAN) + 1e-6


def test_truly_clean_ones_among_the_others_count_as_the_clean_set() -> None:
    """A third of the others are clean, and the rest never usable: p is 3/4 at both, and all alike are drawn."""
    fine = np.arange(NUM) % 3 == 0
    p = np.where(fine, 1 / (1 + fine.mean()), 0.0)[:, None].repeat(3, axis=1)
    found = pool_share(table_of(np.where(fine, 0.0, np.inf)), GRID, [part_of(p)])
    assert found == pytest.approx([fine.sum() / (fine.sum() + NUM_CLEAN)] * 3, rel=1e-5)


def test_few_that_look_clean_by_chance_take_the_place_of_few() -> None:
    few = np.arange(NUM) < 200
    p = np.where(few, 0.5, 0.1)[:, None].repeat(3, axis=1)
    low, _, high = pool_share(table_of(np.where(few, 0.0, 5.0)), GRID, [part_of(p[:2500]), part_of(p[2500:], 2800)])
    assert low == pytest.approx(200 / (NUM + NUM_CLEAN), rel=1e-4)
    assert high == pytest.approx(200 / (NUM + NUM_CLEAN) + 3800 / (NUM_CLEAN + 9 * NUM), rel=1e-4)


@pytest.mark.parametrize(("alike", "expected"), [(1, NUM // 2), (2, NUM)])
def test_pictures_of_each_source_are_compared_with_that_source(alike: int, expected: int) -> None:
    """Two sources, of which one or both are as the clean set: p is 1/2 there."""
    number = np.arange(NUM) % 2
    sources = [f"s{i}" for i in number]
    fine = number < alike
    p = np.where(fine, 0.5, 0.0)[:, None].repeat(3, axis=1)
    found = pool_share(table_of(np.where(fine, 0.0, np.inf), sources=sources), GRID, [part_of(p)])
    assert found == pytest.approx([expected / (expected + NUM_CLEAN)] * 3, rel=1e-4)


def test_small_sources_are_one_group() -> None:
    """As the classifier has them: each alone would be worth as much as one clean picture."""
    few = np.arange(NUM) < 200
    p = np.where(few, 0.5, 0.1)[:, None].repeat(3, axis=1)
    sources = [f"s{i // 2}" for i in range(NUM)]
    low = pool_share(table_of(np.where(few, 0.0, np.inf), sources=sources), GRID, [part_of(p)])[0]
    assert low == pytest.approx(200 / (NUM + NUM_CLEAN), rel=1e-4)


def test_it_does_not_depend_on_how_curves_are_cut() -> None:
    """To the last bit, for it is part of what a run is known by."""
    p = np.random.default_rng(0).uniform(0.1, 0.4, (NUM, 3))
    table, found = table_of(np.zeros(NUM)), []
    for size in (7, 512, NUM):
        parts = [part_of(p[start : start + size], NUM_CLEAN + start) for start in range(0, NUM, size)]
        found.append(pool_share(table, GRID, parts))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("what", ["no curve", "no clean picture", "nothing else", "said"])
def test_nothing_is_said_where_it_cannot_be_known(what: str) -> None:
    p = np.full((NUM, 3), 0.5)
    table = table_of(np.ones(NUM), "rule" if what == "said" else "classifier")
    parts = [part_of(p[:-1] if what == "no curve" else p)]
    if what in ("no clean picture", "nothing else"):
        at = slice(NUM_CLEAN, None) if what == "no clean picture" else slice(NUM_CLEAN)
        table = table.slice(at.start or 0, at.stop)
        parts = [part_of(p, 0)] if what == "no clean picture" else []
    assert pool_share(table, GRID, parts) == []
    assert len(pool_share(table_of(np.ones(NUM)), GRID, [part_of(p)])) == 3
