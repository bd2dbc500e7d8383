"""Noise in pairs that err in opposite ways: a mean over a few pairs is as good as one over many draws.

What a classifier makes of noise z on a picture is, to first order, linear in the energies of the noisy picture at each
spatial frequency: sums of |w + sigma z|^2. The term linear in z changes sign with z; the one in |z|^2, the larger, does
not, so -z alone would err with z instead of against it. So the second noise of a pair has the opposite sign, and in
each ring of frequencies and each colour as much energy as is as rare on the other side of the median: antithetic
variates (Hammersley and Morton 1956) in the energies too. Both are white Gaussian noise, each by itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .transforms import dct, opponent_colours

_FIRST_RING, _GROWTH = 3.0, 1.12  # radius of the first ring; ratio of radii, but at least 1 from ring to ring
_SMALLEST = 8  # coefficients in the corner that makes a ring of its own


class Rings(NamedTuple):
    """basis: (R, R) of the DCT; colours: (C, C); members: (R * R, K), 1 where a coefficient is in ring k, else 0."""

    basis: Tensor
    colours: Tensor
    members: Tensor


def rings(channels: int, side: int, device: torch.device | str = "cpu") -> Rings:
    """The frequencies of (channels, side, side) pictures, in rings of about one eighth of their radius."""
    axis = torch.arange(side, dtype=torch.float64)
    radius = torch.hypot(axis[:, None], axis).flatten()
    edges = [_FIRST_RING]
    while (radius >= edges[-1]).sum() > _SMALLEST:
        edges.append(max(edges[-1] + 1, edges[-1] * _GROWTH))
    ring = torch.bucketize(radius, torch.tensor(edges[:-1], dtype=torch.float64), right=True)
    parts = dct(side), opponent_colours(channels), torch.nn.functional.one_hot(ring).float()
    return Rings(*(part.to(device) for part in parts))


def opposed(white: Tensor, rings: Rings) -> Tensor:
    """Pairs of white noise.

    white: (N, C, R, R) standard normal numbers. Returns (N, 2, C, R, R): each of the two is standard normal, the
    second to 1e-4 in the moments of a ring's energy: E is taken to -E in Wilson and Hilferty's normal scale,
    (E / n)^(1/3) ~ N(1 - 2 / 9n, 2 / 9n), whose median and symmetry are those of chi squared to that.
    """
    flat, size = white.flatten(2), rings.members.sum(dim=0)
    scale = (flat.square() @ rings.members / size).pow(1 / 3)
    centre = 1 - 2 / (9 * size)
    gain = ((2 * centre - scale).clamp_(min=0) / scale).pow(1.5)
    both = torch.stack([flat, -flat * (gain @ rings.members.T)], dim=1)
    mixed = (rings.colours.T @ both).view(len(white), 2, *white.shape[1:])
    # Transposed: white all the same, and both products are large ones.
    return (mixed @ rings.basis.T).transpose(3, 4) @ rings.basis.T
