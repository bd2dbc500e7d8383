"""How much of a measured value is chance."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Z90 = 1.6448536269514722
"""A normal variable lies within this many standard deviations with a probability of 0.9."""

REPLICATES = 40


def bootstrap_error(features: Tensor, statistic: Callable[[Tensor], float], *, seed: int) -> float:
    """Standard error of a statistic of features (N, D): its spread over sets of N rows drawn with replacement.

    Efron 1979, with 40 sets, whose own chance is about a tenth. Only the spread is used, since the values of such sets
    are themselves shifted where repeated rows matter, as in the Frechet distance or in diversity. Where the distance is
    near 0, or N hardly above D, the spread is too large, too, by a factor of 2 or more: an upper bound.
    """
    random = np.random.default_rng(seed)
    draws = [torch.from_numpy(random.integers(len(features), size=len(features))) for _ in range(REPLICATES)]
    values = [statistic(features[rows.to(features.device)]) for rows in draws]
    return float(np.std(values, ddof=1))


def mean_error(values: Tensor) -> float:
    """Standard error of the mean of values (N,)."""
    return float(values.double().std() / len(values) ** 0.5)


def share_error(values: Tensor) -> float:
    """Standard error of a share, the mean of values (N,) that are 0 or 1, after adding two of each.

    Agresti and Coull 1998: so that a share of 0 or 1 in a small set is not taken for certain.
    """
    num = len(values) + 4
    share = (float(values.double().sum()) + 2) / num
    return float((share * (1 - share) / num) ** 0.5)


def share_interval(values: Tensor) -> tuple[float, float]:
    """90 % interval of a share, the mean of values (N,) that are 0 or 1: Wilson 1927, which stays within 0 and 1."""
    num, share, z2 = len(values), float(values.double().mean()), Z90**2
    middle = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z90 * (share * (1 - share) / num + z2 / (4 * num**2)) ** 0.5 / (1 + z2 / num)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def interval(value: float, error: float) -> tuple[float, float]:
    """90 % interval by the normal distribution."""
    return value - Z90 * error, value + Z90 * error
