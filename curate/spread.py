"""How much p_clean depends on which pictures the classifier happened to be trained on.

At a level, two classifiers of one recipe differ in their log odds by about as much for one picture as for another. What
that does to sigma_min is another matter: little where the curve is steep, orders of magnitude where it lies flat near
the threshold. So it is measured in log odds, level by level, and each picture's own curve carries it to sigma_min
(``threshold.decide``). Measured in ln sigma_min instead, the few flat curves would make all intervals wide.
"""

import numpy as np
import torch

from .crossfit import folds_of
from .curves import search
from .fit import Fit, Sample
from .images import to_unit
from .threshold import Array, isotonic, sigma_grid

_PICTURES, _DRAWS = 128, 4
_NEIGHBOURS = np.ones(5) / 5  # levels over which it is averaged


def fold_spread(fit: Fit, other: Sample, seed: int, epsilon: float) -> Array:
    """(L,) standard deviation of the log odds between classifiers of one recipe, at each level of the grid.

    From a sample that all members judge, with the same noise. Of two members one has seen the picture: what that moves
    p_clean by on average is left out; what it adds to the scatter is not, so this is rather too large than too small.
    """
    pictures, names, told = (t[:_PICTURES] for t in (other.pictures, other.names, other.groups))
    x = to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
    folds, grid, tau = folds_of(names, len(fit.members), seed).cpu().numpy(), sigma_grid(), 0.5 - epsilon
    found = []
    for member in fit.members:
        curves = search(member, x, names, grid, groups=told, draws=_DRAWS, tau=tau, seed=seed)
        found.append(isotonic(curves.mean, curves.count))
    curves_of = np.stack(found)  # (members, N, L)
    seen = np.stack([folds != k for k in range(len(found))])
    bias = curves_of[seen].mean(axis=0) - curves_of[~seen].mean(axis=0)
    return log_odds_spread(curves_of - bias * seen[:, :, None])


def log_odds_spread(curves: Array) -> Array:
    """(L,) standard deviation in log odds among members' curves, (members, N, L), of the same pictures.

    A little shift s of the log odds moves p by s p (1 - p): least squares over the pictures, whose saturated
    probabilities then weigh nothing.
    """
    variance, mean = curves.var(axis=0, ddof=1), curves.mean(axis=0)
    slope = (mean * (1 - mean)).clip(1e-6)
    moved, could = (np.convolve(v.sum(axis=0), _NEIGHBOURS, mode="same") for v in (variance, slope**2))
    spread: Array = np.sqrt(moved / could)
    return spread
