"""Thresholds from curves: the isotonic fit, its crossing, its intervals, and that it has no bias."""

import math

import numpy as np
import pytest
from ambient.curate import threshold
from ambient.curate.threshold import (
    crossing,
    decide,
    decide_per_group,
    draw_noise,
    fitted,
    isotonic,
    isotonic_crossing,
    pooled_noise,
    sigma_grid,
    until_first,
)
from scipy.optimize import brentq, isotonic_regression
from scipy.special import expit

GRID = sigma_grid()
TAU = 0.45


def logistic_curve(ln_sigma_min: float, slope: float = 1.5, tau: float = TAU) -> np.ndarray:
    """p_clean on the grid, rising from 0 to 0.5 and passing tau at exp(ln_sigma_min)."""
    offset = math.log(2 * tau / (1 - 2 * tau))
    return 0.5 / (1 + np.exp(-slope * (np.log(GRID) - ln_sigma_min) - offset))


def draws_of(curve: np.ndarray, num: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """(num, L, draws) of 0 or 1 with the curve's mean."""
    return (random.random((num, len(curve), draws)) < curve[:, None]).astype(np.float64)


def decided(draws: np.ndarray, epsilon: float = 0.05) -> np.ndarray:
    """(3, N): sigma_min, lo and hi from draws (N, L, D)."""
    mean, count = draws.mean(axis=2), np.full(draws.shape[:2], draws.shape[2])
    return np.stack(decide(mean, count, GRID, epsilon, noise=noise_of(draws)))


def noise_of(draws: np.ndarray) -> np.ndarray:
    """(L,) from independent draws; a pair of them has half the variance of one."""
    if draws.shape[2] < 4 or len(draws) == 0:
        return np.ones(draws.shape[1])
    pairs = draws.reshape(*draws.shape[:2], -1, 2).mean(axis=3)
    return draw_noise(draws.mean(axis=2), 2 * pairs.var(axis=2, ddof=1), np.full(draws.shape[:2], draws.shape[2]))


def gaussian_draws(num: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """(num, L, draws): what the optimal classifier says of a bad picture that differs by 1 in a Gaussian feature.

    The two hypotheses lie d = 1 / sigma standard deviations apart, so the log odds are N(-d^2 / 2, d^2).
    """
    d = 1 / GRID[:, None]
    return expit(d * random.standard_normal((num, len(GRID), draws)) - d**2 / 2)


def gaussian_ln_sigma_min() -> float:
    """Where the mean of ``gaussian_draws`` passes tau, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)

    def above(ln_sigma: float) -> float:
        d = math.exp(-ln_sigma)
        return float(expit(d * nodes - d**2 / 2) @ weights / weights.sum()) - TAU

    return brentq(above, -1.0, 3.0)


def test_grid() -> None:
    assert len(GRID) == 48
    assert (GRID[0], GRID[-1]) == pytest.approx((0.01, 80.0))
    np.testing.assert_allclose(np.diff(np.log(GRID)), math.log(8000) / 47)


@pytest.mark.parametrize("levels", [1, 2, 7, 48])
@pytest.mark.parametrize("weighted", ["no", "shared", "own"])
def test_isotonic_against_scipy(levels: int, weighted: str) -> None:
    random = np.random.default_rng(levels)
    curves = random.random((60, levels)) + np.linspace(0, 1, levels) * random.choice([-1, 0, 1], (60, 1))
    curves[:10] = random.integers(0, 3, (10, levels)) / 2  # ties
    weights = {"no": None, "shared": random.random(levels) + 0.1, "own": random.random((60, levels)) + 0.1}[weighted]
    rows = np.broadcast_to(np.ones(levels) if weights is None else weights, curves.shape)
    expected = [isotonic_regression(c, weights=w).x for c, w in zip(curves, rows, strict=True)]
    np.testing.assert_allclose(isotonic(curves, weights), expected, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 48])
@pytest.mark.parametrize("weighted", [False, True])
def test_crossing_without_the_fit_against_that_of_the_fit(levels: int, weighted: bool) -> None:
    random = np.random.default_rng(levels)
    curves = random.random((400, levels)) + np.linspace(-0.5, 0.5, levels) * random.choice([-1, 0, 1], (400, 1))
    weights = random.integers(1, 40, (400, levels)).astype(np.float64) if weighted else np.ones((400, levels))
    expected = crossing(isotonic(curves, weights), sigma_grid(levels), TAU)
    assert len(np.unique(expected)) >= min(levels + 1, 10)
    np.testing.assert_allclose(isotonic_crossing(curves, sigma_grid(levels), TAU, weights), expected, rtol=1e-9)


def test_crossing_by_hand() -> None:
    grid = np.array([1.0, 4.0, 16.0])
    fit = np.array(
        [
            [0.25, 0.65, 0.75],  # half of the way from 1 to 4 in ln sigma
            [0.05, 0.15, 0.55],  # three quarters of the way from 4 to 16
            [0.45, 0.45, 0.46],  # tau exactly is not above it
            [0.30, 0.45, 0.60],  # tau exactly at a level
            [0.46, 0.50, 0.50],  # above from the lowest level on
            [0.10, 0.20, 0.45],  # never above
            [0.00, 0.00, 1.00],
        ]
    )
    expected = [2.0, 4 * 4**0.75, 4.0, 4.0, 0.0, math.inf, 4 * 4**0.45]
    np.testing.assert_allclose(crossing(fit, grid, TAU), expected, rtol=1e-12)


def test_crossing_is_inf_of_the_levels_above_tau() -> None:
    """Against the definition, by a dense linear interpolation in ln sigma."""
    fit = np.sort(np.random.default_rng(0).random((50, len(GRID))) * 0.7, axis=1)
    dense = np.linspace(math.log(0.01), math.log(80), 200_001)
    for curve, found in zip(fit, crossing(fit, GRID, TAU), strict=True):
        above = dense[np.interp(dense, np.log(GRID), curve) > TAU]
        expected = math.inf if len(above) == 0 else 0.0 if above[0] == dense[0] else math.exp(above[0])
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("draws", [4, 8, 32])
def test_isotonic_crossing_has_no_bias_where_the_first_crossing_has_one(draws: int) -> None:
    means = gaussian_draws(3000, draws, np.random.default_rng(0)).mean(axis=2)
    truth = gaussian_ln_sigma_min()
    fitted = np.log(crossing(isotonic(means), GRID, TAU)) - truth
    first = np.log(crossing(np.maximum.accumulate(means, axis=1), GRID, TAU)) - truth
    assert abs(np.median(fitted)) < 0.1 * fitted.std() + 0.02
    assert np.median(first) < -0.3 * first.std()
    assert fitted.std() < first.std()


@pytest.mark.parametrize("draws", [1, 2, 16])
def test_decide_brackets_its_value(draws: int) -> None:
    random = np.random.default_rng(1)
    curves = [logistic_curve(x) for x in (-2.0, 0.0, 1.0)] + [np.full(48, 0.02), np.full(48, 0.9)]
    given = np.concatenate([draws_of(curve, 30, draws, random) for curve in curves])
    sigma_min, lo, hi = decided(given)
    assert (lo <= sigma_min).all()
    assert (sigma_min <= hi).all()
    assert np.array_equal(sigma_min, crossing(isotonic(given.mean(axis=2)), GRID, TAU))
    if draws == 16:
        assert (sigma_min[90:120] == math.inf).all()
        assert (sigma_min[120:] == 0).all()
        assert (hi[:90] > lo[:90]).mean() > 0.9


@pytest.mark.parametrize("draws", [8, 32])
def test_interval_holds_the_truth_nine_times_in_ten(draws: int) -> None:
    _, lo, hi = decided(gaussian_draws(800, draws, np.random.default_rng(2)))
    truth = math.exp(gaussian_ln_sigma_min())
    # Of an exact Gaussian model it holds a little more than it says: 0.96, which is the safe side.
    assert 0.85 <= ((lo <= truth) & (truth <= hi)).mean() <= 0.97


def test_a_level_counts_by_its_draws() -> None:
    """By hand: 3 draws of 0.6 and 1 or 9 of 0.2 after them make 0.5 or 0.3, so that tau is passed before or after."""
    grid, mean = np.array([1.0, 4.0, 16.0, 64.0]), np.array([[0.4, 0.6, 0.2, 0.9]] * 2)
    count = np.array([[3.0, 3.0, 1.0, 3.0], [3.0, 3.0, 9.0, 3.0]])
    found, _, _ = decide(mean, count, grid, 0.05, noise=np.full(4, 1e-9))
    # The second: (3 * 0.4 + 3 * 0.6 + 9 * 0.2) / 15 = 0.32 up to 16, and 0.9 at 64.
    np.testing.assert_allclose(found, [4**0.5, 16 * 4 ** (0.13 / 0.58)], rtol=1e-12)


def test_decide_against_scipys_fit_of_unequal_draws() -> None:
    """As the search leaves them: most where the curve crosses."""
    random = np.random.default_rng(8)
    mean, count = gaussian_draws(300, 2, random).mean(axis=2), random.choice([2.0, 10.0, 26.0], (300, len(GRID)))
    found, _, _ = decide(mean, count, GRID, 0.05, noise=np.full(48, 0.5))
    weighted, equal = (
        crossing(np.stack([isotonic_regression(m, weights=w).x for m, w in zip(mean, by, strict=True)]), GRID, TAU)
        for by in (count, np.ones_like(count))
    )
    np.testing.assert_allclose(found, weighted, rtol=1e-9)
    assert (np.abs(np.log(weighted / equal)) > 0.01).mean() > 0.5


def test_intervals_of_unequal_draws_against_a_bootstrap_with_scipys_fit() -> None:
    """The same curve with its draws where it crosses, and where it does not: the first interval is much narrower."""
    curve, noise, random = logistic_curve(0.0), np.full(48, 0.05), np.random.default_rng(9)
    near = np.abs(np.log(GRID)) < 1.0
    counts = np.stack([np.where(near, 40.0, 2.0), np.where(near, 2.0, 40.0)])
    _, lo, hi = decide(np.stack([curve] * 2), counts, GRID, 0.05, noise=noise)
    for count, *found in zip(counts, lo, hi, strict=True):
        scatter = np.sqrt(noise * curve * (1 - curve) / count)
        resampled = curve + scatter * random.standard_normal((2000, 48))
        fits = np.stack([isotonic_regression(one, weights=count).x for one in resampled])
        ends = np.log(np.quantile(crossing(fits, GRID, TAU), [0.05, 0.95]))
        np.testing.assert_allclose(np.log(found), ends, atol=0.2 * (ends[1] - ends[0]))
    widths = np.log(hi / lo)
    assert widths[1] > 2 * widths[0]


def test_a_picture_does_not_depend_on_its_neighbours() -> None:
    given = draws_of(logistic_curve(0.0), 20, 8, np.random.default_rng(3))
    noise = np.full(48, 0.7)

    def alike(draws: np.ndarray) -> np.ndarray:
        return np.stack(decide(draws.mean(axis=2), np.full(draws.shape[:2], 8), GRID, 0.05, noise=noise))

    together = alike(given)
    alone = np.concatenate([alike(one[None]) for one in given], axis=1)
    order = np.random.default_rng(4).permutation(20)
    assert np.array_equal(together, alone)
    assert np.array_equal(alike(given[order]), together[:, order])


def test_no_pictures() -> None:
    assert [len(values) for values in decided(np.zeros((0, 48, 4)))] == [0, 0, 0]


def test_epsilon_moves_the_threshold() -> None:
    given = logistic_curve(0.0)[None, :, None].repeat(2, axis=2)
    found = [float(decided(given, epsilon)[0][0]) for epsilon in (0.02, 0.05, 0.2)]
    assert found[0] > found[1] > found[2]
    assert found[1] == pytest.approx(1.0, rel=0.01)


def test_per_source_is_the_crossing_of_the_mean_curve() -> None:
    random = np.random.default_rng(5)
    centres = {"a": -1.0, "b": 1.0}
    sources = random.choice(["a", "b"], 200).tolist()
    curves = np.stack([logistic_curve(centres[s] + random.normal() / 2) for s in sources])
    found = decide_per_group(curves, sources, GRID, 0.05)
    assert list(found) == ["a", "b"]
    for source, (sigma_min, lo, hi) in found.items():
        mean = curves[[s == source for s in sources]].mean(axis=0, keepdims=True)
        assert sigma_min == pytest.approx(float(crossing(isotonic(mean), GRID, TAU)[0]))
        assert lo < sigma_min < hi
        assert lo > 0.5 * sigma_min
    only_a = [s == "a" for s in sources]
    assert decide_per_group(curves[only_a], ["a"] * sum(only_a), GRID, 0.05)["a"] == found["a"]


def test_a_pool_in_parts_has_the_noise_of_the_whole() -> None:
    random = np.random.default_rng(6)
    mean, variance = random.uniform(0.1, 0.5, (50, 48)), random.uniform(0, 0.1, (50, 48))
    variance[random.random((50, 48)) < 0.2] = np.nan
    count = random.integers(2, 12, (50, 48)).astype(float)
    parts = [(mean[at], variance[at], count[at]) for at in (slice(0, 7), slice(7, 7), slice(7, 50))]
    np.testing.assert_allclose(pooled_noise(parts), draw_noise(mean, variance, count), rtol=1e-12)


def test_means_of_a_bootstrap_are_those_of_the_pictures_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "_CHUNK", 7)
    random = np.random.default_rng(7)
    curves, rows = random.random((40, 48)).astype(np.float32), np.arange(3, 33)
    picks = random.integers(30, size=(5, 30))
    counts = np.stack([np.bincount(pick, minlength=30) for pick in picks]).astype(np.uint16)
    expected = [curves[rows][pick].astype(np.float64).mean(axis=0) for pick in picks]
    np.testing.assert_allclose(threshold._weighted_means(curves, rows, counts), expected, rtol=1e-12)


def falls_again(first: float, last: float) -> np.ndarray:
    """(L,) passes tau at ``first``, falls to 0.3 at the level 1 and passes tau again at ``last``."""
    return np.where(
        GRID < 0.9, logistic_curve(math.log(first)), np.where(GRID < 1.3, 0.3, logistic_curve(math.log(last)))
    )


def test_the_first_crossing_of_a_curve_that_falls_again() -> None:
    curves, count = np.stack([falls_again(0.1, 3.0), logistic_curve(math.log(0.5))]), np.full((2, 48), 8.0)
    first, *_ = decide(curves, count, GRID, 0.05, noise=np.full(48, 1e-6), how="first")
    rising, *_ = decide(curves, count, GRID, 0.05, noise=np.full(48, 1e-6), how="rising")
    assert first.tolist() == pytest.approx([0.1, 0.5], rel=0.01)
    assert rising[1] == pytest.approx(0.5, rel=0.01)
    assert 0.9 < rising[0] < 3.1


def test_the_interval_is_that_of_the_first_crossing() -> None:
    curve, count = falls_again(0.1, 3.0)[None], np.full((1, 48), 64.0)
    _, lo, hi = decide(curve, count, GRID, 0.05, noise=np.full(48, 0.002), how="first")
    assert 0.07 < lo[0] < 0.1 < hi[0] < 0.15
    _, lo, hi = decide(curve, count, GRID, 0.05, noise=np.full(48, 0.002), how="rising")
    assert lo[0] > 0.5


def test_ends_of_the_grid_have_first_crossings_too() -> None:
    curves = np.stack([np.full(48, 0.5), np.full(48, 0.2), np.where(GRID < 0.02, 0.6, 0.1)])
    found, lo, hi = decide(curves, np.full((3, 48), 64.0), GRID, 0.05, noise=np.full(48, 0.01), how="first")
    assert found.tolist() == [0.0, math.inf, 0.0]
    assert (lo <= found).all() and (found <= hi).all()


@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
def test_until_first_against_a_loop(noise: float) -> None:
    """Over each curve by itself: the sum since it was last not above 0, against its own scatter."""
    random = np.random.default_rng(3)
    curves, count = random.random((200, 20)), random.integers(1, 9, (200, 20)).astype(float)
    expected = np.zeros((200, 20), dtype=bool)
    for row, (curve, draws) in enumerate(zip(curves, count, strict=True)):
        since = 0
        for level in range(20):
            expected[row, level] = True
            part = slice(since, level + 1)
            total = sum(draws[part] * (curve[part] - TAU))
            if total > threshold._PASSED * math.sqrt(sum(draws[part] * noise * curve[part] * (1 - curve[part]))):
                break
            since = level + 1 if total <= 0 else since
    np.testing.assert_array_equal(until_first(curves, count, TAU, noise), expected)
    assert 0 < expected.mean() < 1


def test_after_the_first_crossing_the_fit_is_the_curve_itself() -> None:
    """To the last bit, whatever the draws and however small the probabilities before."""
    random = np.random.default_rng(0)
    curves = np.where(random.random((500, 48)) < 0.3, 1e-7 * random.random((500, 48)), random.random((500, 48)))
    curves, count = curves.astype(np.float32).astype(np.float64), random.choice([2.0, 10.0, 26.0], (500, 48))
    fit, before = fitted(curves, count, TAU, 0.02, "first"), until_first(curves, count, TAU, 0.02)
    np.testing.assert_array_equal(fit[~before], curves[~before])
    assert (np.diff(fit, axis=1)[before[:, 1:]] > -1e-12).all()


def test_noise_crosses_first_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """With independent draws, which scatter most: without a margin twice as early, in ln sigma, as with it."""
    draws = gaussian_draws(600, 8, np.random.default_rng(5))
    mean, count, noise = draws.mean(axis=2), np.full(draws.shape[:2], 8.0), noise_of(draws)

    def early(how: str) -> float:
        return gaussian_ln_sigma_min() - np.log(crossing(fitted(mean, count, TAU, noise, how), GRID, TAU)).mean()

    assert abs(early("rising")) < 0.03
    with_margin = early("first")
    monkeypatch.setattr(threshold, "_PASSED", 0.0)
    assert 0.05 < with_margin < 0.6 * early("first")


def test_the_first_crossing_of_a_group() -> None:
    curves, groups = np.stack([falls_again(0.1, 3.0)] * 20 + [logistic_curve(0.0)] * 20), ["a"] * 20 + ["b"] * 20
    found = decide_per_group(curves, groups, GRID, 0.05, how="first")
    assert [found[name][0] for name in "ab"] == pytest.approx([0.1, 1.0], rel=0.01)
    assert decide_per_group(curves, groups, GRID, 0.05)["a"][0] > 0.9


@pytest.mark.parametrize("pictures", [1, 4, 20])
def test_the_first_crossing_of_few_pictures_is_not_that_of_their_noise(pictures: int) -> None:
    """Mean curves over so many pictures with two independent draws a level, against the truth, in ln sigma."""
    draws = gaussian_draws(100 * pictures, 2, np.random.default_rng(pictures)).mean(axis=2)
    noise = noise_of(gaussian_draws(400, 8, np.random.default_rng(9)))
    groups = [str(i // pictures) for i in range(len(draws))]
    early = {}
    for name, known in (("known", noise), ("ignored", 0.0)):
        found = decide_per_group(draws, groups, GRID, 0.05, noise=known, how="first")
        sigmas = np.clip([sigma for sigma, _, _ in found.values()], GRID[0], GRID[-1])
        early[name] = gaussian_ln_sigma_min() - np.log(sigmas).mean()
    assert abs(early["known"]) < 0.6 * early["ignored"]
