"""Do clean and other pictures differ in more than quality? Blurred beyond any damage, they should look alike.

Another subject, camera or brightness in the clean set would be learned as "quality" and push sigma_min up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .noisy import Sample
from .units import to_unit

_SIDE, _CELL = 4, 16  # pixels that are left, at most, of at least so many: finer ones would see a heavy blur itself
_RIDGE = 1.0
_LIMIT, _ERRORS = 0.6, 3.0  # accuracy that is worth a word, and standard errors above chance
_MOST = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """How well thumbnails of two sets are told apart: balanced accuracy on held-out folds, 0.5 is chance.

    error: its standard error by chance. by: the same where only one thing is looked at, its name -> accuracy.
    """

    accuracy: float
    error: float
    by: dict[str, float]

    @property
    def differs(self) -> bool:
        return self.accuracy > self._limit

    @property
    def causes(self) -> dict[str, float]:
        """What gives sets that differ away by itself, the clearest first; nothing where it takes all of a thumbnail."""
        found = {name: accuracy for name, accuracy in self.by.items() if self.differs and accuracy > self._limit}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def _limit(self) -> float:
        return max(_LIMIT, 0.5 + _ERRORS * self.error)


@torch.inference_mode()
def content_of(clean: Sample, other: Sample, folds: tuple[Tensor, Tensor], num_folds: int) -> Content:
    """How well thumbnails of at most 4x4 pixels tell two sets apart: all of it, brightness, colour, and contrast.

    A ridge regression, of all of it on values and squares. folds: (N,) int64 of each set.
    """
    pictures = [_thumbnails(sample.pictures[:_MOST]) for sample in (clean, other)]
    num_clean, cells = len(pictures[0]), torch.cat(pictures)
    fold = torch.cat([of[:_MOST] for of in folds])
    is_clean = torch.arange(len(cells), device=cells.device) < num_clean

    def accuracy(x: Tensor) -> float:
        return _accuracy(x, is_clean, fold, num_folds)

    mean, channels = cells.mean(dim=(1, 2, 3)), cells.mean(dim=(2, 3))
    by = {"brightness": accuracy(mean[:, None])}
    if cells.shape[-1] > 1:
        by["contrast"] = accuracy(cells.std(dim=(2, 3)).mean(dim=1, keepdim=True))
    if cells.shape[1] > 1:
        by["colour"] = accuracy(channels - mean[:, None])
    error = 0.5 * (0.25 / num_clean + 0.25 / (len(cells) - num_clean)) ** 0.5
    both = torch.cat([cells, cells.square()], dim=1).flatten(1)
    return Content(accuracy=accuracy(both), error=error, by=by)


def _accuracy(x: Tensor, is_clean: Tensor, fold: Tensor, num_folds: int) -> float:
    """Balanced accuracy, on held-out folds, of a ridge regression on x (N, F), each set weighted one half."""
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
    return sum(float(hit[mask].double().mean()) for mask in (is_clean, ~is_clean)) / 2


def _thumbnails(pictures: Tensor) -> Tensor:
    """(N, C, S, S) mean of each cell."""
    x = to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
    return torch.nn.functional.adaptive_avg_pool2d(x, max(1, min(_SIDE, x.shape[-1] // _CELL)))
