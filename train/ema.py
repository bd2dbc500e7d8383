"""Exponential moving average of the weights."""

from collections.abc import Iterable

import torch
from torch import Tensor

_RAMP_UP = 0.05  # the half-life is at most this share of the pictures seen so far (arXiv 2206.00364, released settings)


def decay(num_images: int, batch_size: int, halflife: float) -> float:
    """What is left of the old average after a batch that ends at num_images. halflife: in pictures."""
    return float(0.5 ** (batch_size / max(min(halflife, _RAMP_UP * num_images), 1e-8)))


@torch.no_grad()
def update(average: Iterable[Tensor], weights: Iterable[Tensor], keep: float) -> None:
    """average <- keep * average + (1 - keep) * weights, in place."""
    torch._foreach_lerp_(list(average), list(weights), 1 - keep)
