"""Statistics of the loss, gathered on the device so that no step waits for them."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .batches import Use
from .world import World

BAND_EDGES = (0.1, 0.3, 1.0, 3.0)
"""Noise levels that part the bands of the logged loss."""

_NONE = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """Mean over the pictures of all ranks since the last reading.

    loss: without the floor, so that it compares between targets. floor: what the ambient target's variance adds.
    by_sigma: loss per band of noise levels, such as ``0.1-0.3``; bands without a picture are left out.
    by_use: the same for the pictures used as ``clean``, as ``high`` noise (s > 0) and as ``low`` noise alone.
    """

    loss: float
    floor: float
    by_sigma: dict[str, float]
    by_use: dict[str, dict[str, float]]


class NotFinite(Exception):  # noqa: N818 (it describes the loss, not a fault of the program)
    """A loss that is not a finite number, first met in the batch that began at ``num_images``.

    bad: (B,) booleans on the CPU, which pictures of the global batch.
    """

    def __init__(self, num_images: int, bad: Tensor) -> None:
        super().__init__(num_images)
        self.num_images, self.bad = num_images, bad


class Monitor:
    """Sums per use and band of sigma, and where a loss was first not finite."""

    def __init__(self, batch_size: int, world: World) -> None:
        """batch_size: pictures of this rank per step."""
        self._world = world
        self._edges = torch.tensor(BAND_EDGES, device=world.device)
        self._bands = len(BAND_EDGES) + 1
        self._sums = torch.zeros(len(Use) * self._bands, 3, dtype=torch.float64, device=world.device)
        self._first_bad = torch.full((), _NONE, dtype=torch.int64, device=world.device)
        self._bad = torch.zeros(batch_size, dtype=torch.bool, device=world.device)

    @torch.no_grad()
    def add(self, losses: Tensor, floors: Tensor, sigma: Tensor, use: Tensor, start: int, num_images: int) -> None:
        """losses, floors, sigma, use: (B,) of pictures start ... start + B - 1 of this rank's part of the batch that
        began at num_images. Nothing is read back."""
        cell = use * self._bands + torch.bucketize(sigma, self._edges)
        values = torch.stack([losses.double(), floors.double(), torch.ones_like(losses).double()], dim=1)
        self._sums += torch.nn.functional.one_hot(cell, len(self._sums)).double().T @ values
        bad = ~losses.isfinite()
        part = self._bad[start : start + len(bad)]
        now = bad.any() & (self._first_bad >= num_images)
        part.copy_(torch.where(now, bad, part))
        self._first_bad = torch.where(now, num_images, self._first_bad)

    def read(self) -> Losses:
        """Means since the last call. Raises NotFinite if a loss was not finite. Every rank must call."""
        firsts = self._world.gather(self._first_bad)
        if (first := int(firsts.min())) != _NONE:
            bad = self._world.gather(self._bad) & (firsts == first)[:, None]
            raise NotFinite(first, bad.T.flatten())  # picture i of rank r is number i * size + r
        sums = self._world.sum(self._sums.clone()).cpu().view(len(Use), self._bands, 3)
        self._sums.zero_()
        loss, floor, count = sums.sum(dim=(0, 1)).tolist()
        by_use = {use.name.lower(): _means(sums[use]) for use in Use if sums[use, :, 2].any()}
        return Losses(loss=(loss - floor) / count, floor=floor / count, by_sigma=_means(sums.sum(dim=0)), by_use=by_use)


def band_names() -> list[str]:
    """Names of the bands in ascending order: ``0-0.1`` ... ``3-inf``."""
    edges = [0.0, *BAND_EDGES, math.inf]
    return [f"{low:g}-{high:g}" for low, high in pairwise(edges)]


def _means(sums: Tensor) -> dict[str, float]:
    """(bands, 3) sums of losses, floors and counts to the mean loss less the floor."""
    means = ((sums[:, 0] - sums[:, 1]) / sums[:, 2]).tolist()
    return {name: mean for name, mean in zip(band_names(), means, strict=True) if not math.isnan(mean)}
