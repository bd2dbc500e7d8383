"""The sampler against brute force, against SciPy's distributions, and against the rule as it stands in SQL."""

import math
from pathlib import Path

import ambient
import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.schemas.usable import BETA, beta_of, usable
from ambient.train.sampler import MAX_UNCOVERED, LevelSampler, Sampler, slots
from scipy import stats

INF = math.inf
MIXES = {
    "clean and bad": ([0, 0, 2, 2, 2, 5], [0] * 6),
    "all clean": ([0] * 4, [0] * 4),
    "donut": ([0, 1, 2, 0.5, INF, 1.5], [0, 0.3, 0.1, 0.2, 0.4, 0]),
    "inf both ways": ([INF, 2, INF, 0.5, 1], [INF, INF, 0, 0.1, 0.2]),
    "overlapping sets": ([0.1, 0.4, 0.3, 1], [0.5, 0.46, 0.2, 0]),
    "equal thresholds": ([1, 1, 1, 0.5, 0.5, 1, 1], [0.7, 0.7, 0.7, 0.7, 0.2, 0, 0.9]),
    "no clean picture": ([0.45, 0.8, 2, 2], [0, 0.8, 0.1, 0.3]),
}


def sampler(mix: str, *, seed: int = 0, beta: float = BETA, clean: torch.Tensor | None = None) -> Sampler:
    sigma_min, sigma_max = (torch.tensor(t, dtype=torch.float32) for t in MIXES[mix])
    return Sampler(sigma_min, sigma_max, P_mean=-0.5, P_std=1.2, beta=beta, seed=seed, clean=clean)


def everywhere(mix: str) -> torch.Tensor:
    sigma_min, sigma_max = (torch.tensor(t, dtype=torch.float64) for t in MIXES[mix])
    return (sigma_min == 0) | (sigma_max > BETA * sigma_min)


def usable_matrix(mix: str, sigma: torch.Tensor, beta: float = BETA) -> np.ndarray:
    """(draws, pictures) booleans by the rule itself."""
    sigma_min, sigma_max = (np.float32(t).astype(np.float64)[None] for t in MIXES[mix])
    return usable(sigma.double().numpy()[:, None], sigma_min, sigma_max, beta)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("buffer", [4.0, 1.5])
def test_every_draw_is_usable_and_every_usable_picture_equally_likely(mix: str, buffer: float) -> None:
    beta = beta_of(buffer)
    rows, sigma = sampler(mix, beta=beta).draw(torch.arange(60_000))
    allowed = usable_matrix(mix, sigma, beta)
    assert allowed[np.arange(len(rows)), rows.numpy()].all()
    assert (sampler(mix, beta=beta).usable_count(sigma).numpy() == allowed.sum(axis=1)).all()
    # Within a bin the usable set may change, so the expectation is the mean of 1 / (number usable) over its draws.
    weights = allowed / allowed.sum(axis=1, keepdims=True)
    bins = np.searchsorted(np.quantile(sigma.numpy(), np.linspace(0, 1, 13)[1:-1]), sigma.numpy())
    for b in range(12):
        expected = weights[bins == b].sum(axis=0)
        observed = np.bincount(rows.numpy()[bins == b], minlength=allowed.shape[1])
        assert (observed[expected == 0] == 0).all()
        if (expected > 0).sum() > 1:
            assert stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-5


def test_sigma_has_the_training_density() -> None:
    _, sigma = sampler("clean and bad").draw(torch.arange(100_000))
    assert stats.kstest(sigma.numpy(), stats.lognorm(s=1.2, scale=math.exp(-0.5)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("mix", ["clean and bad", "donut", "overlapping sets"])
@pytest.mark.parametrize("level", [0.05, 0.45, 0.7, 1.3, 3.0, 20.0])
def test_the_composition_is_kept(mix: str, level: float, some: bool) -> None:
    """As often as another picture is usable, one of all that are usable; else one of the clean set.

    That is all that are usable everywhere, or the first of these.
    """
    sigma_min, sigma_max = (torch.tensor(v, dtype=torch.float64) for v in MIXES[mix])
    clean = everywhere(mix)
    if some:
        clean = clean & (clean.cumsum(0) <= 1)
    s = Sampler(sigma_min, sigma_max, P_mean=math.log(level), P_std=1e-6, seed=4, clean=clean)
    rows, sigma = s.draw(torch.arange(60_000))
    allowed, trusted = usable_matrix(mix, sigma[:1])[0], clean.numpy()
    share = (allowed & ~trusted).sum() / (~trusted).sum()
    expected = share * allowed / allowed.sum() + (1 - share) * trusted / trusted.sum()
    observed = np.bincount(rows.numpy(), minlength=len(allowed))
    assert (observed[expected == 0] == 0).all()
    wanted = expected[expected > 0] * len(rows)
    assert len(wanted) == 1 or stats.chisquare(observed[expected > 0], wanted).pvalue > 1e-4
    np.testing.assert_allclose(s.chance_of_clean(sigma[:1]), expected[trusted][:1], rtol=1e-9)
    assert torch.equal(torch.cat([s.draw(torch.tensor([i]))[0] for i in range(50)]), rows[:50])
    assert (s.num_clean, s.num_everywhere) == (int(clean.sum()), int(everywhere(mix).sum()))


@pytest.mark.parametrize(("level", "share"), [(0.05, 0.0), (0.2, 0.1), (0.632456, 0.25), (2.0, 0.4), (30.0, 2 / 3)])
def test_others_are_drawn_as_often_as_their_share_says(level: float, share: float) -> None:
    """Between levels linear in ln sigma, constant beyond; none where none is usable, all alike at most."""
    thresholds = torch.tensor([0.0, 0.0, 0.1, 0.1, 0.5, 20.0]), torch.zeros(6)
    clean = torch.tensor([True, True, False, False, False, False])
    shares = torch.tensor([[0.2, 2.0, 20.0], [0.1, 0.4, 0.9]])
    s = Sampler(*thresholds, P_mean=math.log(level), P_std=1e-6, clean=clean, pool_share=shares)
    rows, sigma = s.draw(torch.arange(40_000))
    allowed = usable(level, thresholds[0].double().numpy(), np.zeros(6))
    observed = np.bincount(rows.numpy(), minlength=6) / len(rows)
    others = allowed & ~clean.numpy()
    expected = np.where(others, share / max(others.sum(), 1), np.where(clean, (1 - share) / 2, 0.0))
    assert observed == pytest.approx(expected, abs=0.012)
    assert float(s.chance_of_clean(sigma[:1])) == pytest.approx((1 - share) / 2, abs=1e-5)


def test_clean_pictures_that_are_not_usable_everywhere_count_as_others() -> None:
    clean = torch.tensor([True, True, False, False])
    thresholds = torch.tensor([0.0, 1.0, 0.0, 2.0]), torch.zeros(4)
    s = Sampler(*thresholds, P_mean=math.log(0.5), P_std=1e-6, clean=clean)
    rows, _ = s.draw(torch.arange(30_000))
    assert s.num_clean == 1
    # One of the three others is usable: a third of the draws are of both, the rest is of the clean one.
    assert np.bincount(rows.numpy(), minlength=4) / len(rows) == pytest.approx([5 / 6, 0, 1 / 6, 0], abs=0.01)


def test_the_composition_is_kept_at_given_levels() -> None:
    """As a Sampler of one level keeps it: the same rows from the same random numbers."""
    sigma_min, sigma_max = (torch.tensor(v, dtype=torch.float64) for v in MIXES["overlapping sets"])
    indices, clean = torch.arange(5000), everywhere("overlapping sets")
    for level in (0.45, 3.0):
        one = torch.tensor([level])
        given = LevelSampler(sigma_min, sigma_max, levels=one, seed=3, clean=clean)
        wide = Sampler(sigma_min, sigma_max, P_mean=math.log(level), P_std=1e-9, seed=3, clean=clean)
        assert torch.equal(given.draw(indices)[0], wide.draw(indices)[0])
        assert torch.equal(given.chance_of_clean(one), wide.chance_of_clean(one))


@pytest.mark.parametrize("mix", ["all clean", "no clean picture"])
def test_there_is_no_composition_to_keep_without_both_kinds(mix: str) -> None:
    kept, plain = (sampler(mix, clean=clean) for clean in (everywhere(mix), None))
    indices = torch.arange(2000)
    assert all(torch.equal(a, b) for a, b in zip(kept.draw(indices), plain.draw(indices), strict=True))


def test_small_gap_is_left_out_of_the_density() -> None:
    low, high = 0.5, 0.50005
    sigma_min, sigma_max = (torch.tensor([t], dtype=torch.float64) for t in (high / BETA, low))
    gap = Sampler(sigma_min, sigma_max, P_mean=-0.5, P_std=1.2).uncovered
    density = stats.lognorm(s=1.2, scale=math.exp(-0.5))
    assert (gap.low, gap.high) == (low, pytest.approx(high))
    assert gap.share == pytest.approx(density.cdf(high) - density.cdf(low), rel=1e-6)
    assert 0 < gap.share < MAX_UNCOVERED
    s = Sampler(sigma_min, sigma_max, P_mean=math.log(0.5), P_std=1.2, seed=1)
    _, sigma = s.draw(torch.arange(200_000))
    assert not ((sigma.double() >= low) & (sigma.double() <= high)).any()
    assert stats.kstest(sigma.numpy(), stats.lognorm(s=1.2, scale=0.5).cdf).pvalue > 1e-3


def test_density_around_a_gap_is_the_truncated_one() -> None:
    """The inverse CDF of the density without the gap, at the same uniform numbers as without a gap."""
    sigma_min, sigma_max = (torch.tensor([t], dtype=torch.float64) for t in (0.50005 / BETA, 0.5))
    gap = Sampler(sigma_min, sigma_max, P_mean=-0.5, P_std=1.2)
    plain = Sampler(torch.zeros(1), torch.zeros(1), P_mean=-0.5, P_std=1.2)
    density = stats.lognorm(s=1.2, scale=math.exp(-0.5))
    low, high = density.cdf(0.5), density.cdf(0.50005)
    indices = torch.arange(5000)
    u = density.cdf(plain.draw(indices)[1].double().numpy()) * (1 - (high - low))
    expected = density.ppf(np.where(u < low, u, u + (high - low)))
    np.testing.assert_allclose(gap.draw(indices)[1].numpy(), expected, rtol=2e-6)


def test_draws_that_round_into_the_gap_are_moved_out_of_it() -> None:
    """A density as narrow as a few float32 steps around a gap that is a single representable point."""
    point = torch.tensor([0.5], dtype=torch.float64)
    s = Sampler(point / BETA, point, P_mean=math.log(0.5), P_std=5e-8)
    assert s.uncovered.low == pytest.approx(s.uncovered.high)
    _, sigma = s.draw(torch.arange(20_000))
    assert ((sigma.double() > s.uncovered.high) | (sigma.double() < s.uncovered.low)).all()
    assert 2 < len(sigma.unique()) < 20
    assert (s.usable_count(sigma) == 1).all()


@pytest.mark.parametrize(
    ("sigma_min", "sigma_max", "levels"),
    [
        ([2.0, 1.0], [0.0, 0.0], "below sigma 1.155"),
        ([INF, INF], [1.0, 0.5], "above sigma 1"),
        ([1.0, 2.0], [0.3, 0.2], "between sigma 0.3 and 1.155"),
        ([INF, INF], [0.0, 0.0], "at any noise level, 100% of the training density: add clean pictures"),
    ],
)
def test_uncovered_levels_are_refused_with_range_and_share(
    sigma_min: list[float], sigma_max: list[float], levels: str
) -> None:
    with pytest.raises(UserError, match=levels) as caught:
        Sampler(torch.tensor(sigma_min), torch.tensor(sigma_max), P_mean=-1.2, P_std=1.2)
    assert "%" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_picture_is_refused() -> None:
    with pytest.raises(UserError, match="no picture"):
        Sampler(torch.empty(0), torch.empty(0), P_mean=-1.2, P_std=1.2)


def test_batches_do_not_matter() -> None:
    s = sampler("donut")
    rows, sigma = s.draw(torch.arange(40_000))
    for start, end in [(0, 1), (17, 400), (16_383, 16_386), (39_999, 40_000)]:
        part = s.draw(torch.arange(start, end))
        assert torch.equal(part[0], rows[start:end])
        assert torch.equal(part[1], sigma[start:end])


def test_ranks_draw_different_streams_whose_union_is_one_process() -> None:
    s = sampler("donut")
    whole = s.draw(slots(1000, 512))
    parts = [s.draw(slots(1000, 512, rank=rank, world_size=2)) for rank in range(2)]
    assert not torch.equal(parts[0][1], parts[1][1])
    for one, a, b in zip(whole, *parts, strict=True):
        assert torch.equal(one, torch.stack([a, b], dim=1).flatten())


def test_seeds_draw_different_streams() -> None:
    indices = torch.arange(100)
    assert not torch.equal(sampler("donut", seed=0).draw(indices)[1], sampler("donut", seed=1).draw(indices)[1])


def test_agrees_with_sql_about_what_is_usable() -> None:
    sigma_min = np.float32([0, 0.2, 0.5, 1, 1.5, INF, INF, 0.3, 0.4, 0])
    sigma_max = np.float32([0, 0, 0.1, 1, 0.7, 0.7, INF, 0.5, 0, INF])
    # Beside ordinary levels: on each threshold, and the float32 on either side of it.
    edges = np.concatenate([sigma_min.astype(np.float64) * BETA, sigma_max])
    edges = edges[np.isfinite(edges) & (edges > 0)]
    near = np.float32(edges)
    levels = np.concatenate([near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(9))])
    assert levels.dtype == np.float32  # as every level is that anything is trained at
    s = Sampler(torch.from_numpy(sigma_min), torch.from_numpy(sigma_max), P_mean=-1.2, P_std=1.2)
    table = pa.table({"status": ["ok"] * len(sigma_min), "sigma_min": sigma_min, "sigma_max": sigma_max})
    with duckdb.connect(":memory:") as connection:
        connection.register("manifest_file", table)
        connection.sql("CREATE VIEW manifest AS FROM manifest_file")
        views = (Path(ambient.__path__[0]) / "schemas" / "views.sql").read_text()
        connection.execute(views[views.index("CREATE MACRO usable") :].split(";")[0])
        for level in levels.tolist():
            found = connection.execute("SELECT count(*) FROM usable(?::DOUBLE)", [level]).fetchone()
            expected = int(s.usable_count(torch.tensor([level])))
            assert found == (expected,), level


LEVELS = torch.logspace(-1.2, 1.2, 25)


@pytest.mark.parametrize("mix", ["donut", "overlapping sets", "equal thresholds"])
def test_of_given_levels_each_is_as_likely_and_every_draw_is_usable(mix: str) -> None:
    sigma_min, sigma_max = (torch.tensor(t, dtype=torch.float32) for t in MIXES[mix])
    s = LevelSampler(sigma_min, sigma_max, levels=LEVELS, seed=2)
    rows, sigma = s.draw(torch.arange(50_000))
    level = torch.searchsorted(LEVELS, sigma)
    assert torch.equal(LEVELS[level], sigma)
    allowed = usable_matrix(mix, sigma)
    assert allowed[np.arange(len(rows)), rows.numpy()].all()
    assert stats.chisquare(np.bincount(level.numpy(), minlength=25)).pvalue > 1e-3
    for k in (0, 12, 24):
        here = (level == k).numpy()
        observed = np.bincount(rows.numpy()[here], minlength=len(sigma_min))[allowed[here][0]]
        assert len(observed) == 1 or stats.chisquare(observed).pvalue > 1e-5


def test_levels_that_no_picture_covers_are_refused() -> None:
    thresholds = torch.tensor([1.0, 2.0]), torch.tensor([0.3, 0.2])
    with pytest.raises(UserError, match=r"between sigma 0\.3162 and 1, .*leave those levels out"):
        LevelSampler(*thresholds, levels=torch.tensor([0.1, 10**-0.5, 0.9, 1.0, 1.2]))
    many = torch.cat([torch.full((20_000,), 1.5), torch.tensor([0.9])])  # one level in so many is one too many
    with pytest.raises(UserError, match=r"no picture is usable between sigma 0\.9 and 0\.9"):
        LevelSampler(*thresholds, levels=many)
    rows, sigma = LevelSampler(*thresholds, levels=torch.tensor([0.25, 1.5])).draw(torch.arange(100))
    assert set(zip(rows.tolist(), sigma.tolist(), strict=True)) == {(0, 0.25), (0, 1.5)}


@pytest.mark.parametrize("levels", [[], [0.0, 1.0], [1.0, INF], [-1.0], [math.nan]])
def test_levels_are_above_zero_and_finite(levels: list[float]) -> None:
    with pytest.raises(UserError, match="above 0 and finite"):
        LevelSampler(torch.zeros(2), torch.zeros(2), levels=torch.tensor(levels))
