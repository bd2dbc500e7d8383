"""``usable(sigma)``: at which noise levels a picture may be trained on. ``views.sql`` says the same in SQL."""

import math
from typing import TypeVar

BUFFER = 4
"""b of arXiv 2506.10038: caps 1/alpha = sigma^2 / (sigma^2 - sigma_min^2). 4 was best in the paper's ablation."""

T = TypeVar("T")


def beta_of(buffer: float) -> float:
    """beta = sqrt(b / (b - 1)): how far above sigma_min a level must lie for 1/alpha to stay below the buffer b > 1."""
    return math.sqrt(buffer / (buffer - 1))


BETA = beta_of(BUFFER)


def usable(sigma: T, sigma_min: T, sigma_max: T, beta: float = BETA) -> T:
    """Whether a picture with status ``ok`` may be used at noise level sigma (arXiv 2506.10038, sections 3 and 4).

    sigma, sigma_min, sigma_max: noise standard deviations >= 0 in units of the space, inf allowed; numpy arrays,
    torch tensors, polars expressions or numpy scalars, which broadcast. Compare in float64, as SQL does.
    Returns booleans of the same kind: sigma > beta * sigma_min or sigma < sigma_max.
    """
    high_noise = sigma > beta * sigma_min  # type: ignore[operator]
    low_noise = sigma < sigma_max  # type: ignore[operator]
    return high_noise | low_noise  # type: ignore[no-any-return]
