"""Pixels as numbers that networks see, and back.

Apart from what reads pictures (images.py), which knows no PyTorch: processes that read start in a tenth of the time and
memory without it.
"""

import torch
from torch import Tensor


def to_unit(u8: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]: x / 127.5 - 1, any shape."""
    return u8.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """The inverse of ``to_unit``: rounds to the nearest of 256 levels and clamps what lies outside [-1, 1]."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
