"""From p_clean curves to sigma_min: the crossing of the isotonic fit (arXiv 2506.10038, sections 3.1 and 3.2).

p_clean rises with the noise level; each level is estimated from its own noise, so the raw curve wiggles and its first
crossing comes too early. The isotonic fit, the closest rising curve, has no such bias.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NUM_LEVELS, LOWEST, HIGHEST = 48, 0.01, 80.0
_RESAMPLES = 32


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
    low, high = fit[rows, upper - 1], fit[rows, upper]
    rise = np.where(high > low, high - low, 1.0)
    share = np.clip((tau - low) / rise, 0.0, 1.0)
    log_grid = np.log(grid)
    sigma = np.exp(log_grid[upper - 1] + share * (log_grid[upper] - log_grid[upper - 1]))
    return np.where(first == 0, 0.0, np.where(first == len(grid), np.inf, sigma))


def decide(mean: Array, variance: Array, count: Array, grid: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """sigma_min of each picture with a 90 % interval for the chance of the draws.

    mean, variance, count: (N, L) p_clean, the variance of one draw, the number of draws; grid: (L,); a level is good
    when p_clean > 0.5 - epsilon. Returns sigma_min, lo, hi, each (N,). The interval is a parametric bootstrap, with the
    same normal numbers for every picture, so that a picture's result does not depend on its neighbours.
    """
    tau = 0.5 - epsilon
    sigma_min = crossing(isotonic(mean, count), grid, tau)
    error = np.sqrt(variance / count)
    normals = np.random.default_rng(0).standard_normal((_RESAMPLES, mean.shape[1]))
    resampled = np.stack([crossing(isotonic(mean + error * z, count), grid, tau) for z in normals])
    lo, hi = np.quantile(resampled, [0.05, 0.95], axis=0, method="inverted_cdf")
    return sigma_min, np.minimum(lo, sigma_min), np.maximum(hi, sigma_min)


def decide_per_source(
    curves: Array, sources: list[str], grid: Array, epsilon: float
) -> dict[str, tuple[float, float, float]]:
    """One sigma_min per source: the crossing of the mean curve of its pictures (eq. 3.2).

    curves: (N, L) p_clean; sources: N names. Returns source -> (sigma_min, lo, hi); the 90 % interval is a bootstrap
    over the pictures of the source.
    """
    names = np.asarray(sources)
    out: dict[str, tuple[float, float, float]] = {}
    for source in sorted(set(sources)):
        mine = curves[names == source]
        picks = np.random.default_rng(0).integers(len(mine), size=(_RESAMPLES, len(mine)))
        means = np.stack([mine.mean(axis=0), *(mine[pick].mean(axis=0) for pick in picks)])
        sigmas = crossing(isotonic(means), grid, 0.5 - epsilon)
        lo, hi = np.quantile(sigmas[1:], [0.05, 0.95], method="inverted_cdf")
        out[source] = (float(sigmas[0]), float(min(lo, sigmas[0])), float(max(hi, sigmas[0])))
    return out
