"""From p_clean curves to sigma_min: the crossing of the isotonic fit (arXiv 2506.10038, sections 3.1 and 3.2).

p_clean rises with the noise level; each level is estimated from its own noise, so the raw curve wiggles and its first
crossing comes too early. The isotonic fit, the closest rising curve, has no such bias. Some pictures' curves do fall
again, though. The crossing of the fit to all levels, ``rising``, then lies where the curve is above tau for good, on
average; ``first``, the paper's inf{sigma : p_clean(sigma) > tau}, ends the fit where the curve has passed tau for the
first time, by more than its draws scatter.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.manifest import Crossing, Metadata

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Bools = NDArray[np.bool_]

NUM_LEVELS, LOWEST, HIGHEST = 48, 0.01, 80.0
_RESAMPLES = 64
_DRAW_RESAMPLES = 100
_CHUNK = 1 << 14  # curves averaged at a time
_TWO_CLASSIFIERS = 2**0.5  # the one that judged and another one, which the interval is to hold, are both off by spread
_PRIOR = 20.0  # draws' worth of the grid's mean in each level's noise
_LEAST_DRAWS = 2  # of the search at a level
_PASSED = 0.5  # standard errors above tau from which on it is passed: errs as often early as late (docs/log.md)


def sigma_grid(levels: int = NUM_LEVELS, lowest: float = LOWEST, highest: float = HIGHEST) -> Array:
    """(levels,) noise levels, evenly spaced in ln sigma."""
    return np.geomspace(lowest, highest, levels)


def isotonic(curves: Array, weights: Array | None = None) -> Array:
    """Least-squares rising fit of each curve.

    By the max-min formula: the fit at i is the largest over a <= i of the smallest over b >= i of the mean of a..b.
    curves: (N, L); weights: (L,) or (N, L) > 0, for example draw counts, 1 when left out. Returns (N, L).
    """
    n, levels = curves.shape
    weights = np.broadcast_to(np.ones(levels) if weights is None else weights, curves.shape)
    zero = np.zeros((n, 1))
    sums = np.concatenate([zero, np.cumsum(curves * weights, axis=1)], axis=1)
    totals = np.concatenate([zero, np.cumsum(weights, axis=1)], axis=1)
    fit = np.full((n, levels), -np.inf)
    for a in range(levels):
        means = (sums[:, a + 1 :] - sums[:, a : a + 1]) / (totals[:, a + 1 :] - totals[:, a : a + 1])
        smallest = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        np.maximum(fit[:, a:], smallest, out=fit[:, a:])
    return fit


def crossing(fit: Array, grid: Array, tau: float) -> Array:
    """Where each rising curve passes tau, interpolated in ln sigma: inf{sigma : p_clean(sigma) > tau}.

    fit: (N, L) rising in [0, 1]; grid: (L,) noise levels. Returns (N,): 0 where the curve is above tau from the lowest
    level on, inf where it never is.
    """
    above = fit > tau
    first = np.where(above.any(axis=1), above.argmax(axis=1), len(grid))
    upper = np.clip(first, 1, len(grid) - 1)
    rows = np.arange(len(fit))
    return _interpolated(first, fit[rows, upper - 1], fit[rows, upper], grid, tau)


def _interpolated(first: Index, low: Array, high: Array, grid: Array, tau: float) -> Array:
    """Where tau is passed between levels first - 1 and first, whose values are low and high."""
    upper = np.clip(first, 1, len(grid) - 1)
    rise = np.where(high > low, high - low, 1.0)
    share = np.clip((tau - low) / rise, 0.0, 1.0)
    log_grid = np.log(grid)
    sigma = np.exp(log_grid[upper - 1] + share * (log_grid[upper] - log_grid[upper - 1]))
    return np.where(first == 0, 0.0, np.where(first == len(grid), np.inf, sigma))


def isotonic_crossing(curves: Array, grid: Array, tau: float, weights: Array) -> Array:
    """``crossing(isotonic(curves, weights), grid, tau)`` without the fit: (N,), in O(L) a curve.

    The fit is above tau from the end of the lowest partial sum of weight * (curve - tau) on. A block of the fit ends
    there and the next begins, so the fit just below is the largest mean of a run that ends there, and just above, the
    smallest mean of one that begins there.
    """
    n, levels = curves.shape
    zero = np.zeros((n, 1))
    sums = np.concatenate([zero, np.cumsum(curves * weights, axis=1)], axis=1)
    totals = np.concatenate([zero, np.cumsum(np.broadcast_to(weights, curves.shape), axis=1)], axis=1)
    first = levels - np.argmin((sums - tau * totals)[:, ::-1], axis=1)
    at = np.clip(first, 1, levels - 1)[:, None]
    rise, width = sums - np.take_along_axis(sums, at, axis=1), totals - np.take_along_axis(totals, at, axis=1)
    places = np.arange(levels + 1)
    means = rise / np.where(places == at, 1.0, width)
    low = np.where(places < at, means, -np.inf).max(axis=1, initial=-np.inf)
    high = np.where(places > at, means, np.inf).min(axis=1, initial=np.inf)
    return _interpolated(first, low, high, grid, tau)


def until_first(mean: Array, count: Array, tau: float, noise: Array | float) -> Bools:
    """(N, L) which levels come before each curve has passed tau for the first time, that one among them.

    Passed is a run of levels whose mean is above tau by _PASSED of its standard errors, as in a cumulative sum chart
    (Page 1954). Arguments as in ``decide``.
    """
    n, levels = mean.shape
    rise, variance = count * (mean - tau), count * noise * mean * (1 - mean)
    total, scatter, passed = np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool)
    out = np.empty((n, levels), dtype=bool)
    for level in range(levels):
        out[:, level] = ~passed
        total, scatter = total + rise[:, level], scatter + variance[:, level]
        below = total <= 0
        total[below], scatter[below] = 0.0, 0.0
        passed |= total > _PASSED * np.sqrt(scatter)
    return out


def fitted(mean: Array, count: Array, tau: float, noise: Array | float, how: Crossing) -> Array:
    """The curve whose first level above tau decides: rising all the way, or until it has passed tau. (N, L).

    Arguments as in ``decide``.
    """
    if how == "rising":
        return isotonic(mean, count)
    before = until_first(mean, count, tau, noise)
    return np.where(before, isotonic(np.where(before, mean, 1.0), count), mean)


def fit_of(p_clean: list[float], draws: list[int] | None, metadata: Metadata) -> Array:
    """(L,) the fit that decides on one picture of a manifest."""
    mean = np.array([p_clean], dtype=np.float64)
    count = np.ones(mean.shape) if draws is None else np.array([draws], dtype=np.float64)
    tau, noise = 0.5 - metadata.epsilon, np.array(metadata.draw_noise or 0.0)
    found: Array = fitted(mean, count, tau, noise, metadata.crossing)[0]
    return found


def mean_crossing(means: Array, pictures: int, grid: Array, tau: float, noise: Array | float, how: Crossing) -> Array:
    """Where mean curves (K, L), each over so many pictures, pass tau (eq. 3.2): (K,).

    noise: as in ``decide``; every level of a picture has _LEAST_DRAWS draws or more.
    """
    return crossing(fitted(means, np.full(means.shape, float(_LEAST_DRAWS * pictures)), tau, noise, how), grid, tau)


def draw_noise(mean: Array, variance: Array, count: Array) -> Array:
    """How much one draw scatters at each level, as a share of p (1 - p), the most that it can: (L,).

    A picture has too few draws to say it of itself, and a level with none apart would claim to be certain; all pictures
    together say it well. Arguments of a whole pool, as in ``Curves``.
    """
    return pooled_noise([(mean, variance, count)])


def pooled_noise(parts: Iterable[tuple[Array, Array, Array]]) -> Array:
    """``draw_noise`` of a pool that comes in parts, each mean, variance and count of some pictures."""
    found, most = np.zeros(1), np.zeros(1)
    for mean, variance, count in parts:
        known = ~np.isnan(variance)
        weight = np.where(known, count / 2 - 1, 0.0)
        found = found + (weight * np.where(known, variance, 0.0)).sum(axis=0)
        most = most + (weight * mean * (1 - mean)).sum(axis=0)
    overall = found.sum() / most.sum() if most.sum() > 0 else 1.0
    prior = _PRIOR / 4
    share: Array = (found + prior * overall) / (most + prior)
    return share


def decide(
    mean: Array,
    count: Array,
    grid: Array,
    epsilon: float,
    *,
    noise: Array,
    spread: Array | float = 0.0,
    how: Crossing = "rising",
) -> tuple[Array, Array, Array]:
    """sigma_min of each picture with a 90 % interval.

    mean, count: (N, L) p_clean and the number of draws; grid: (L,); a level is good when p_clean > 0.5 - epsilon.
    noise: (L,) from ``draw_noise``; spread: (L,) standard deviation of the log odds between classifiers of one recipe.
    how: which crossing, where a curve has several.
    Returns sigma_min, lo, hi, each (N,). The interval is a parametric bootstrap around the fit that decides (around the
    raw means it covers 3 % less): the draws scatter at each level by itself, another classifier, trained afresh, moves
    the whole curve. The random numbers are the same for every picture, so that it does not depend on its neighbours.
    """
    tau = 0.5 - epsilon
    fit = fitted(mean, count, tau, noise, how)
    sigma_min = crossing(fit, grid, tau)
    smooth = (fit * count + 0.5) / (count + 1)  # a level of nothing but zeros is not certain
    error = np.sqrt(noise * smooth * (1 - smooth) / count)
    random = np.random.default_rng(0)
    normals = random.standard_normal((_DRAW_RESAMPLES, mean.shape[1]))
    shifts = _TWO_CLASSIFIERS * spread * random.standard_normal((_DRAW_RESAMPLES, 1))
    resampled = np.empty((_DRAW_RESAMPLES, len(mean)))
    for found, z, shift in zip(resampled, normals, shifts, strict=True):
        curves = moved(fit, shift) + error * z
        if how == "first":
            curves = np.where(until_first(curves.clip(0, 1), count, tau, noise), curves, 1.0)
        found[:] = isotonic_crossing(curves, grid, tau, count)
    lo, hi = np.quantile(resampled, [0.05, 0.95], axis=0, method="inverted_cdf")
    return sigma_min, np.minimum(lo, sigma_min), np.maximum(hi, sigma_min)


def moved(p: Array, shift: Array) -> Array:
    """Probabilities with their log odds shifted; p: (..., L) in [0, 1], shift: (..., L)."""
    more = np.exp(shift)
    result: Array = p * more / (1 - p + p * more)
    return result


def decide_per_group(
    curves: NDArray[np.floating[Any]],
    groups: list[str],
    grid: Array,
    epsilon: float,
    *,
    noise: Array | float = 0.0,
    spread: Array | float = 0.0,
    how: Crossing = "rising",
) -> dict[str, tuple[float, float, float]]:
    """One sigma_min per group of pictures, such as a source: the crossing of their mean curve (eq. 3.2).

    curves: (N, L) p_clean; groups: N names. Returns group -> (sigma_min, lo, hi); the 90 % interval is a bootstrap
    over the pictures of the group and over classifiers, as in ``decide``.
    """
    names = np.asarray(groups, dtype=object)
    out: dict[str, tuple[float, float, float]] = {}
    for group in sorted(set(groups)):
        mine = np.flatnonzero(names == group)
        random = np.random.default_rng(0)
        counts = np.ones((1 + _RESAMPLES, len(mine)), dtype=np.uint16)  # how often each picture is in each mean
        for resample in counts[1:]:
            resample[:] = np.bincount(random.integers(len(mine), size=len(mine)), minlength=len(mine))
        shifts = _TWO_CLASSIFIERS * spread * random.standard_normal((_RESAMPLES, 1))
        mean, *rest = _weighted_means(curves, mine, counts)
        means = np.stack(rest)
        several = np.concatenate([mean[None], moved(means, np.broadcast_to(shifts, means.shape))])
        sigma_min, *resampled = mean_crossing(several, len(mine), grid, 0.5 - epsilon, noise, how)
        lo, hi = np.quantile(resampled, [0.05, 0.95], method="inverted_cdf")
        out[group] = (float(sigma_min), float(min(lo, sigma_min)), float(max(hi, sigma_min)))
    return out


def _weighted_means(curves: NDArray[np.floating[Any]], rows: Index, counts: NDArray[np.uint16]) -> Array:
    """(K, L) means of the curves in these rows (M,), each taken as often as counts (K, M) says."""
    total = np.zeros((len(counts), curves.shape[1]))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        total += counts[:, part].astype(np.float64) @ curves[rows[part]].astype(np.float64)
    return total / len(rows)
