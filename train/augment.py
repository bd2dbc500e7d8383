"""Geometric augmentation on the training device: flips, scaling, rotation, stretching, shifts.

What stays fixed under it. The annotated data set holds one noised picture x_n = w_0 + s z per picture, and nothing else
of w_0 may ever be seen. A mirrored picture is the mirrored x_n: w_0 and z are flipped together. A rotated or scaled x_n
would no longer carry white noise, and w_0 rotated before the one z is added would show w_0 through that noise from
another side every time; so pictures with s > 0 are only flipped.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..curate.noise import Purpose, normals, uniforms

NUM_LABELS = 9
"""That tell the network how a picture was changed."""

_LN_SCALE = 0.2 * math.log(2.0)  # of one standard deviation of scaling and of stretching
_SHIFT = 1 / 8  # one standard deviation, in sides of the picture


class Flips(NamedTuple):
    """Which pictures are mirrored: across, (N,) bool, left and right; down, (N,) bool, top and bottom."""

    across: Tensor
    down: Tensor


def flipped(pictures: Tensor, flips: Flips) -> Tensor:
    """pictures: (N, C, H, W)."""
    pictures = torch.where(flips.across.view(-1, 1, 1, 1), pictures.flip(3), pictures)
    return torch.where(flips.down.view(-1, 1, 1, 1), pictures.flip(2), pictures)


def mirror(indices: Tensor, *, seed: int | Tensor) -> Flips:
    """Half of the training pictures (N,) int64 left-right mirrored."""
    u = uniforms(indices, 1, seed=seed, purpose=Purpose.AUGMENT)[:, 0]
    return Flips(across=u < 0.5, down=torch.zeros_like(u, dtype=torch.bool))


def geometric(
    w0: Tensor, s: Tensor, indices: Tensor, *, probability: float, seed: int | Tensor
) -> tuple[Tensor, Flips, Tensor]:
    """Non-leaking augmentation, which the network is told (arXiv 2206.00364, appendix F.2).

    Left-right mirroring of half of the pictures; each of top-bottom mirroring, scaling, rotation, stretching and
    shifting with ``probability``, where s = 0 for the last four. Between pixels bicubic, beyond the border mirrored.

    w0: (N, C, H, W). s: (N,) noise floors. indices: (N,) int64 of training pictures, which decide everything.
    Returns the pictures with all but the flips applied, the flips, which belong on w_0 and z alike and come last, and
    the labels (N, 9) float32: all zero for a picture left as it is.
    """
    u = uniforms(indices, 9, seed=seed, purpose=Purpose.AUGMENT).float()
    n = normals(indices, 4, seed=seed, purpose=Purpose.AUGMENT, index=1)
    free = s == 0
    down = (u[:, 1] < probability) & (u[:, 2] < 0.5)
    scale, turn, stretch, shift = ((u[:, 3 + k] < probability) & free for k in range(4))
    flips = Flips(across=u[:, 0] < 0.5, down=down)
    log_scale = n[:, 0] * scale
    angle = (2 * u[:, 7] - 1) * math.pi * turn
    axis = (2 * u[:, 8] - 1) * math.pi * stretch
    log_stretch = n[:, 1] * stretch
    move = n[:, 2:] * shift[:, None]
    inverse = _inverse(log_scale * _LN_SCALE, angle, axis, log_stretch * _LN_SCALE, move * 2 * _SHIFT)
    grid = functional.affine_grid(inverse, list(w0.shape), align_corners=False)
    moved = functional.grid_sample(w0, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    changed = (scale | turn | stretch | shift).view(-1, 1, 1, 1)
    labels = [flips.across, flips.down, log_scale, angle.cos() - 1, angle.sin()]
    labels += [log_stretch * axis.cos(), log_stretch * axis.sin(), move[:, 0], move[:, 1]]
    return torch.where(changed, moved, w0), flips, torch.stack([label.float() for label in labels], dim=1)


def _inverse(log_scale: Tensor, angle: Tensor, axis: Tensor, log_stretch: Tensor, move: Tensor) -> Tensor:
    """(N, 2, 3) maps from the new picture's coordinates in [-1, 1] to the old one's.

    The new picture is the old one scaled, stretched along ``axis``, turned, then moved by ``move`` (N, 2) half sides.
    """
    along, across = torch.exp(-log_scale - log_stretch), torch.exp(-log_scale + log_stretch)
    shrink = _rotation(axis) @ torch.diag_embed(torch.stack([along, across], dim=1)) @ _rotation(-axis)
    linear = shrink @ _rotation(-angle)
    return torch.cat([linear, -linear @ move[:, :, None]], dim=2)


def _rotation(angle: Tensor) -> Tensor:
    """(N, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
