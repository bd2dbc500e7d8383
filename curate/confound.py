"""Do clean and other pictures differ in more than quality? Blurred beyond any damage, they should look alike.

Another subject, camera or brightness in the clean set would be learned as "quality" and push sigma_min up.
"""

import torch
from torch import Tensor

from .noisy import Sample
from .units import to_unit

_SIDE = 4  # pixels that are left
_RIDGE = 1.0
_LIMIT, _ERRORS = 0.6, 3.0  # accuracy that is worth a word, and standard errors above chance
_MOST = 4096


@torch.inference_mode()
def content_accuracy(clean: Sample, other: Sample, folds: tuple[Tensor, Tensor], num_folds: int) -> tuple[float, float]:
    """Balanced accuracy, and its standard error, of telling 4x4 thumbnails of two sets apart on held-out folds.

    A ridge regression on brightness and contrast of the thumbnails, each set weighted one half. folds: (N,) int64 of
    each set.
    """
    x = torch.cat([_thumbnails(sample.pictures[:_MOST]) for sample in (clean, other)])
    fold = torch.cat([of[:_MOST] for of in folds])
    num_clean = min(len(clean.pictures), _MOST)
    is_clean = torch.arange(len(x), device=x.device) < num_clean
    x = (x - x.mean(dim=0)) / (x.std(dim=0) + 1e-6)
    x = torch.cat([x, torch.ones(len(x), 1, device=x.device)], dim=1).double()
    sign = torch.where(is_clean, 1.0, -1.0).double()
    hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for k in range(num_folds):
        train, test = fold != k, fold == k
        share = torch.where(is_clean, (is_clean & train).sum(), (~is_clean & train).sum()).double()
        weighted = x[train] / share[train, None]
        ridge = _RIDGE / train.sum() * torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
        solution = torch.linalg.solve(weighted.T @ x[train] + ridge, weighted.T @ sign[train])
        hit[test] = (x[test] @ solution) * sign[test] > 0
    rates = [float(hit[mask].double().mean()) for mask in (is_clean, ~is_clean)]
    error = 0.5 * (0.25 / num_clean + 0.25 / (len(x) - num_clean)) ** 0.5
    return sum(rates) / 2, error


def is_confounded(accuracy: float, error: float) -> bool:
    return accuracy > max(_LIMIT, 0.5 + _ERRORS * error)


def _thumbnails(pictures: Tensor) -> Tensor:
    """(N, F) mean of each of 4x4 cells and channels, and its square."""
    x = to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
    cells = torch.nn.functional.adaptive_avg_pool2d(x, _SIDE).flatten(1)
    return torch.cat([cells, cells.square()], dim=1)
