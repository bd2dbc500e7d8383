"""Statistics of the loss, gathered on the device so that no step waits for them."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

BAND_EDGES = (0.1, 0.3, 1.0, 3.0)
"""Noise levels that part the bands of the logged loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Mean over the pictures since the last reading.

    loss: without the floor, so that it compares between targets. floor: what the ambient target's variance adds.
    by_sigma: loss per band of noise levels, such as ``0.1-0.3``; bands without a picture are left out.
    """

    loss: float
    floor: float
    by_sigma: dict[str, float]


class NotFinite(Exception):  # noqa: N818 (it describes the loss, not a fault of the program)
    """A loss that is not a finite number, first met in the batch that began at ``num_images``.

    bad: (B,) booleans on the CPU, which of its pictures.
    """

    def __init__(self, num_images: int, bad: Tensor) -> None:
        super().__init__(num_images)
        self.num_images, self.bad = num_images, bad


class Monitor:
    """Sums per band of sigma, and where a loss was first not finite."""

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._edges = torch.tensor(BAND_EDGES, device=device)
        self._sums = torch.zeros(len(BAND_EDGES) + 1, 3, dtype=torch.float64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._bad = torch.zeros(batch_size, dtype=torch.bool, device=device)

    @torch.no_grad()
    def add(self, losses: Tensor, floors: Tensor, sigma: Tensor, num_images: int) -> None:
        """losses, floors, sigma: (B,) of the batch that began at num_images. Nothing is read back."""
        band = torch.bucketize(sigma, self._edges)
        members = torch.nn.functional.one_hot(band, len(self._sums)).double()
        self._sums += members.T @ torch.stack([losses.double(), floors.double(), torch.ones_like(losses).double()], 1)
        bad = ~losses.isfinite()
        first = bad.any() & (self._first_bad < 0)
        self._bad = torch.where(first, bad, self._bad)
        self._first_bad = torch.where(first, num_images, self._first_bad)

    def read(self) -> Losses:
        """Means since the last call. Raises NotFinite if a loss was not finite."""
        if (first := int(self._first_bad)) >= 0:
            raise NotFinite(first, self._bad.cpu())
        sums = self._sums.cpu().clone()  # on a CPU the copy would share memory
        self._sums.zero_()
        loss, floor, count = sums.sum(0).tolist()
        means = ((sums[:, 0] - sums[:, 1]) / sums[:, 2]).tolist()
        by_sigma = {name: mean for name, mean in zip(band_names(), means, strict=True) if not math.isnan(mean)}
        return Losses(loss=(loss - floor) / count, floor=floor / count, by_sigma=by_sigma)


def band_names() -> list[str]:
    """Names of the bands in ascending order: ``0-0.1`` ... ``3-inf``."""
    edges = [0.0, *BAND_EDGES, math.inf]
    return [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
