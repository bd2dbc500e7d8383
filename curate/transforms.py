"""Orthonormal bases: white noise stays white in them, and every coefficient's expected energy is known."""

import math

import torch
from torch import Tensor


def dct(side: int) -> Tensor:
    """(side, side) float32: column k is the k-th orthonormal DCT-II basis vector."""
    i = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi * (i[:, None] + 0.5) * i[None, :] / side) * math.sqrt(2 / side)
    basis[:, 0] /= math.sqrt(2)
    return basis.float()


def hartley(side: int) -> Tensor:
    """(side, side) float32: column k is cos + sin of k periods per side: real, orthonormal, with Fourier's energies."""
    i = torch.arange(side, dtype=torch.float64)
    angle = 2 * math.pi * i[:, None] * i[None, :] / side
    return ((torch.cos(angle) + torch.sin(angle)) / math.sqrt(side)).float()


def opponent_colours(channels: int) -> Tensor:
    """Orthonormal luminance, red-green, yellow-blue for three channels; other channel counts are left alone.

    Returns (channels, channels) float32; a row is a colour.
    """
    if channels != 3:
        return torch.eye(channels)
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    return torch.nn.functional.normalize(rows, dim=1)
