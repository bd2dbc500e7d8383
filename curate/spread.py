"""How much sigma_min depends on which pictures the classifier happened to be trained on."""

import numpy as np
import torch

from .crossfit import folds_of
from .curves import search
from .fit import Fit, Sample
from .images import to_unit
from .threshold import crossing, isotonic, sigma_grid

_PICTURES, _DRAWS = 64, 4


def fold_spread(fit: Fit, other: Sample, seed: int, epsilon: float) -> float:
    """Standard deviation of ln sigma_min between classifiers of one recipe, on a sample that all of them judge.

    The noise is the same for all. Of two members one has seen the picture: what that moves it by on average is left
    out; what it adds to the scatter is not, so this is rather too large than too small.
    """
    pictures, names, told = (t[:_PICTURES] for t in (other.pictures, other.names, other.groups))
    x = to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
    folds, grid, tau = folds_of(names, len(fit.members), seed).cpu().numpy(), sigma_grid(), 0.5 - epsilon
    found = []
    for member in fit.members:
        curves = search(member, x, names, grid, groups=told, draws=_DRAWS, tau=tau, seed=seed)
        found.append(np.log(crossing(isotonic(curves.mean, curves.count), grid, tau).clip(grid[0], grid[-1])))
    values = np.stack(found)
    seen = np.stack([folds != k for k in range(len(values))])
    bias = values[seen].mean() - values[~seen].mean()
    return float(np.sqrt((values - bias * seen).var(axis=0, ddof=1).mean()))
