"""What quality classifiers learn from: pictures of two sets, and balanced batches of them under noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .units import to_unit

_DECISIVE = (0.05, 10.0)  # below, most damage is plain to see; above, next to none is left


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Pictures of one set.

    pictures: (N, C, H, W) uint8, or float32 in the units of the space, on the device to train on. names: (N,) int64
    from ``names_of``. groups: (N,) int64, of pictures that are not clean.
    """

    pictures: Tensor
    names: Tensor
    groups: Tensor


def noised(
    clean: Sample,
    other: Sample,
    clean_places: Tensor,
    other_places: Tensor,
    half: int,
    levels: tuple[float, float],
    generator: torch.Generator,
    table: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A balanced batch: x (2 * half, C, H, W), sigma, group, label, each (2 * half,).

    levels: the lowest and the highest noise; ln sigma is uniform between them, half of it over the decisive ones.
    generator: on the pictures' device. table: ``draw_table`` of the other pictures, where it is known already; clean
    pictures get a group of the same distribution.
    """
    device = clean.pictures.device
    told = other.groups[other_places]
    table = draw_table(told) if table is None else table
    place = torch.rand(2 * half, dtype=torch.float64, device=device, generator=generator)
    drawn = torch.searchsorted(table, place, right=True)
    picks = clean_places[torch.randint(len(clean_places), (half,), device=device, generator=generator)]
    x0 = unit(torch.cat([clean.pictures[picks], other.pictures[other_places[drawn[half:]]]]))
    flips = torch.rand(2, 2 * half, 1, 1, 1, device=device, generator=generator) < 0.5
    x0 = torch.where(flips[0], x0.flip(3), x0)
    x0 = torch.where(flips[1], x0.transpose(2, 3), x0)
    share = torch.rand(2 * half, device=device, generator=generator)
    everywhere, decisive = (math.log(low) + share * math.log(high / low) for low, high in (levels, _DECISIVE))
    sigma = torch.where(torch.arange(2 * half, device=device) % 2 == 0, everywhere, decisive).exp()
    x = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, device=device, generator=generator)
    labels = (torch.arange(2 * half, device=device) < half).float()
    return x, sigma, told[drawn], labels


def draw_table(groups: Tensor) -> Tensor:
    """How often to draw each picture: (N,) float64, the share of all draws that goes to it and to those before it.

    A group's share is the square root of its share of the pictures, so that a rare one is learned too.
    groups: (N,) int64. Added up on the CPU, for a GPU's cumulative sums differ from run to run.
    """
    weights = groups.bincount(minlength=1).clamp(min=1).double().rsqrt()[groups]
    table = weights.cpu().cumsum(dim=0)
    return (table / table[-1]).to(groups.device)


def unit(pictures: Tensor) -> Tensor:
    """Pictures of a sample as float32 in the units of the space."""
    return to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
