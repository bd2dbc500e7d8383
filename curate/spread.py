"""How much p_clean depends on which pictures the classifier happened to be trained on.

At a level, two classifiers of one recipe differ in their log odds by about as much for one picture as for another. What
that does to sigma_min is another matter: little where the curve is steep, orders of magnitude where it lies flat near
the threshold. So it is measured in log odds, level by level, and each picture's own curve carries it to sigma_min
(``threshold.decide``). Measured in ln sigma_min instead, the few flat curves would make all intervals wide.
"""

import numpy as np
import torch

from .crossfit import folds_of
from .curves import p_clean
from .fit import Fit
from .noisy import Sample
from .threshold import Array, sigma_grid
from .units import to_unit

_PICTURES, _DRAWS, _STEP = 256, 8, 4  # every fourth level, interpolated
_KERNEL = np.array([1.0, 2.0, 3.0, 2.0, 1.0])  # of neighbouring levels: two classifiers may agree at one by luck


def fold_spread(fit: Fit, other: Sample, seed: int) -> Array:
    """(L,) standard deviation of the log odds between classifiers of one recipe, at each level of the grid.

    From a sample that all members judge, with the same noise. All members but one have seen a picture: what that moves
    p_clean by on average is left out; what it adds to the scatter is not, so this is rather too large than too small.
    """
    at = torch.linspace(0, len(other.names) - 1, min(_PICTURES, len(other.names)), device=other.names.device).long()
    pictures, names, told = other.pictures[at], other.names[at], other.groups[at]
    x = to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
    log_grid = np.log(sigma_grid())
    some = np.arange(_STEP - 1, len(log_grid), _STEP)
    levels = torch.tensor(np.exp(log_grid[some]), dtype=torch.float32, device=x.device)
    p = np.stack(
        [
            p_clean(member, x, names, levels, groups=told, draws=_DRAWS, seed=seed).double().cpu().numpy()
            for member in fit.members
        ]
    )
    folds = folds_of(names, len(fit.members), seed).cpu().numpy()
    seen = np.stack([folds != k for k in range(len(p))])
    bias = p[seen].mean(axis=(0, 2)) - p[~seen].mean(axis=(0, 2))
    found = log_odds_spread(p - bias[:, None] * seen[:, :, None, None])
    return np.interp(log_grid, log_grid[some], found)


def log_odds_spread(p: Array) -> Array:
    """(L,) standard deviation in log odds among members that judge the same noisy pictures.

    p: (members, N, L, draws), the draws in pairs whose noise is one another's opposite. A little shift s of the log
    odds moves p by s p (1 - p): least squares over the pictures, whose saturated probabilities then weigh nothing. What
    few draws add is taken off. Of K members two share K - 2 of the K - 1 folds that each trained on, so they differ
    less than strangers would: the variance between them times K - 1 is that of one (the jackknife; of 2, times 1). What
    their first weights and noise add is theirs alone, and is multiplied, too: of more than 2 this is rather too large.
    """
    pairs = p.reshape(*p.shape[:3], -1, 2).mean(axis=4)
    between = pairs - pairs.mean(axis=0)
    scatter = between.var(axis=3, ddof=1) / pairs.shape[3]
    moved = (between.mean(axis=3) ** 2 - scatter).sum(axis=(0, 1))  # K - 1 times the variance
    mean = p.mean(axis=(0, 3))
    could = ((mean * (1 - mean)) ** 2).sum(axis=0)
    spread: Array = np.sqrt(np.maximum(_smoothed(moved), 0.0) / np.maximum(_smoothed(could), 1e-12))
    return spread


def _smoothed(levels: Array) -> Array:
    """Sums over neighbouring levels, (L,): a level counts by what it could tell."""
    return np.convolve(levels, _KERNEL)[len(_KERNEL) // 2 :][: len(levels)]
