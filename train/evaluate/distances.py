"""Distances between two sets of pictures: functions of their features, (N, D) float64, a row per picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_DEGREE = 3
_BLOCK = 1024  # rows of a matrix of pairs that are in memory at a time
_TALL = 8192  # rows of features that are decomposed at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """What the Frechet distance needs to know of N feature vectors.

    mean: (D,) float64. factor: (K, D) float64, K = min(N, D), with factor^T factor = the covariance (divided by N - 1).
    """

    mean: Tensor
    factor: Tensor
    num: int

    @property
    def covariance(self) -> Tensor:
        """(D, D)."""
        return self.factor.T @ self.factor


def moments(features: Tensor) -> Moments:
    """Of features (N, D), N >= 2. The covariance is never formed: its factor comes from the features by QR, in parts.

    With S = R^T R of the rows so far, R of more rows is that of [R; rows], so 50,000 x 2,048 features need little more
    memory than they take themselves.
    """
    mean = features.mean(dim=0, dtype=torch.float64)
    factor = mean.new_zeros(0, len(mean))
    for start in range(0, len(features), _TALL):
        part = features[start : start + _TALL].double() - mean
        factor = torch.linalg.qr(torch.cat([factor, part]), mode="r").R
    return Moments(mean=mean, factor=factor / (len(features) - 1) ** 0.5, num=len(features))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): Frechet distance of two Gaussians (arXiv 1706.08500, eq. 6).

    With S = F^T F the trace of the root is the sum of the singular values of F_a F_b^T. So no root of a matrix is
    taken, rounding errors are not enlarged by one, and covariances of rank N - 1 < D (fewer pictures than features) do
    no harm to the computation. They do to what it means: the estimate is too large by about a constant over N, so
    compare distances of equal N only.
    """
    apart = (a.mean - b.mean).square().sum()
    root = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    return float(apart + a.factor.square().sum() + b.factor.square().sum() - 2 * root)


def kernel_distance(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Kernel distance (KID) and its standard error: the unbiased estimate of the squared maximum mean discrepancy.

    x: (N, D), y: (M, D). Kernel (x . y / D + 1)^3 (arXiv 1801.01401, section 4). All pairs are used instead of random
    subsets, so the value has no chance beyond that of the pictures; it may be negative. The standard error is the
    delete-one jackknife's over x and over y (Arvesen 1969, for U-statistics).
    """
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    to_x, to_y = (_kernel_sums(z, z)[0] - _kernel_self(z) for z in (x, y))
    x_to_y, y_to_x = _kernel_sums(x, y)
    within_x, within_y, across = to_x.sum(), to_y.sum(), x_to_y.sum()
    value = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)
    # Without picture i: what the sums lose, over what is left of the pairs.
    without_x = (within_x - 2 * to_x) / ((n - 1) * (n - 2)) - 2 * (across - x_to_y) / ((n - 1) * m)
    without_y = (within_y - 2 * to_y) / ((m - 1) * (m - 2)) - 2 * (across - y_to_x) / (n * (m - 1))
    variance = _jackknife_variance(without_x) + _jackknife_variance(without_y)
    return float(value), float(variance.sqrt())


def blocks(x: Tensor) -> Iterator[Tensor]:
    """The rows of x in parts small enough for a matrix of pairs."""
    for start in range(0, len(x), _BLOCK):
        yield x[start : start + _BLOCK]


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the kernel of each row of x summed over all rows of y, and (M,) the other way round."""
    over_y, over_x = [], y.new_zeros(len(y))
    for part in blocks(x):
        kernel = _kernel(part @ y.T, x.shape[1])
        over_y.append(kernel.sum(dim=1))
        over_x += kernel.sum(dim=0)
    return torch.cat(over_y), over_x


def _kernel_self(x: Tensor) -> Tensor:
    """(N,) the kernel of each row with itself."""
    return _kernel(x.square().sum(dim=1), x.shape[1])


def _kernel(products: Tensor, dimensions: int) -> Tensor:
    return (products / dimensions + 1) ** _DEGREE


def _jackknife_variance(without: Tensor) -> Tensor:
    """Variance of a statistic from its values without each of N observations."""
    num = len(without)
    return (without - without.mean()).square().sum() * (num - 1) / num
