"""Measures by nearest neighbours: do the samples look real, are all kinds there, are they copies?

x: features of samples (N, D), y: of the reference (M, D), any floating type; distances are Euclidean. Each function
returns a value per picture, whose mean is the measure, so that chance can be told from the spread.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .distances import blocks

PRECISION_NEIGHBOURS = 3  # arXiv 1904.06991, section 3.1
DENSITY_NEIGHBOURS = 5  # arXiv 2002.09797, section 4
COPY_RATIO = 1 / 3


def precision(x: Tensor, y: Tensor, k: int = PRECISION_NEIGHBOURS) -> Tensor:
    """(N,) 1.0 for samples within the k-nearest-neighbour ball of a reference picture (arXiv 1904.06991, eq. 1, 2).

    ``precision(y, x)`` is recall: of reference pictures within the ball of a sample.
    """
    radii = ball_radii(y, k)
    return _by_rows(x, y, lambda far: (far <= radii).any(dim=1))


def density(x: Tensor, y: Tensor, k: int = DENSITY_NEIGHBOURS) -> Tensor:
    """(N,) in how many balls of reference pictures each sample lies, divided by k (arXiv 2002.09797, eq. 5)."""
    radii = ball_radii(y, k)
    return _by_rows(x, y, lambda far: (far <= radii).double().sum(dim=1) / k)


def coverage(x: Tensor, y: Tensor, k: int = DENSITY_NEIGHBOURS) -> Tensor:
    """(M,) 1.0 for reference pictures whose own ball holds a sample (arXiv 2002.09797, eq. 6)."""
    radii = ball_radii(y, k)
    return (_by_rows(y, x, lambda far: far.min(dim=1).values) <= radii).double()


def copied(x: Tensor, *forms: Tensor, ratio: float = COPY_RATIO) -> Tensor:
    """(N,) 1.0 for samples less than a third as far from their nearest training picture as from their second nearest.

    A sample counts as memorised by this rule of Yoon et al. 2023, used in arXiv 2310.02664, section 2, on distances of
    pixels. forms: (M, D) each, M >= 2, also uint8: the training pictures, and the same in other forms that training
    shows, such as mirrored; a picture is as near as its nearest form. Copies of what is in the training set twice are
    not found: both are as near.
    """
    x, nearest = x.double(), torch.full((len(x), 2), torch.inf, dtype=torch.float64, device=x.device)
    for parts in zip(*(blocks(form) for form in forms), strict=True):
        near = torch.stack([_distances(x, part.to(x.device)) for part in parts]).amin(dim=0)
        nearest = torch.cat([nearest, near], dim=1).topk(2, dim=1, largest=False).values
    return (nearest[:, 0] < ratio * nearest[:, 1]).double()


def ball_radii(y: Tensor, k: int) -> Tensor:
    """(M,) float64: how far the k-th nearest other row lies from each row of y; M > k."""
    radii, done = [], 0
    for part in blocks(y):
        far = _distances(part, y)
        far.diagonal(done).fill_(torch.inf)  # of each from itself
        radii.append(far.kthvalue(k, dim=1).values)
        done += len(part)
    return torch.cat(radii)


def _by_rows(x: Tensor, y: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """What is measured on each row of the (N, M) distances."""
    return torch.cat([measure(_distances(part, y)).double() for part in blocks(x)])


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) float64. The quick formula |x|^2 + |y|^2 - 2 x.y cancels for near copies: what it finds is float64."""
    return torch.cdist(x.double(), y.double())
