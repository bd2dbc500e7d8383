"""The shape that DDPM++ and EDM2 share: which blocks there are, how maps change size, how a class is written."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...schemas.errors import UserError

Resampling = Literal["down", "up"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What every U-Net of this shape is told.

    channels: base width. multipliers: width of each level relative to that; each level halves H and W.
    blocks: residual blocks per level and direction. attention_resolutions: sides of the feature maps that attend,
    beside the lowest level, whose middle always does. dropout: probability, in every residual block.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_resolutions: tuple[int, ...]
    dropout: float

    def __post_init__(self) -> None:
        if self.channels < 8 or self.channels % 8:
            raise UserError(f"network.channels must be a multiple of 8, not {self.channels}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"network.multipliers must be one or more numbers >= 1, not {list(self.multipliers)}")
        if self.blocks < 1:
            raise UserError(f"network.blocks must be at least 1, not {self.blocks}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"network.dropout must lie in [0, 1), not {self.dropout}")

    def check_resolution(self, resolution: int) -> None:
        """Raise UserError where pictures of this side cannot be halved once per level."""
        if resolution % (factor := 2 ** (len(self.multipliers) - 1)):
            fewer = self.multipliers[: (resolution & -resolution).bit_length()]
            raise UserError(
                f"network.multipliers has {len(self.multipliers)} levels, so the resolution must be "
                f"divisible by {factor}, and {resolution} is not: use fewer levels, such as "
                f"--set network.multipliers={','.join(map(str, fewer))}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockShape:
    """One residual block. skip: channels that it takes from the way down, beside ``inputs``; 0 for none."""

    inputs: int
    outputs: int
    skip: int = 0
    resampling: Resampling | None = None
    attend: bool = False


def blocks_down(sizes: Sizes, resolution: int) -> list[BlockShape]:
    """The blocks of the encoder, after its first convolution to ``sizes.channels``.

    A level begins with a block that halves the map at the width of the level above, and then attends or not.
    """
    shapes, width = [], sizes.channels
    for level, multiplier in enumerate(sizes.multipliers):
        attend = resolution >> level in sizes.attention_resolutions
        if level:
            shapes.append(BlockShape(inputs=width, outputs=width, resampling="down"))
        for _ in range(sizes.blocks):
            shapes.append(BlockShape(inputs=width, outputs=sizes.channels * multiplier, attend=attend))
            width = shapes[-1].outputs
    return shapes


def blocks_up(sizes: Sizes, resolution: int, *, attend_last_only: bool) -> list[BlockShape]:
    """The blocks of the middle (two, the first attends) and of the decoder, which takes back every map of the encoder.

    attend_last_only: where a level attends, only the last of its blocks does.
    """
    skips = [sizes.channels, *(shape.outputs for shape in blocks_down(sizes, resolution))]
    width = skips[-1]
    shapes = [BlockShape(inputs=width, outputs=width, attend=True), BlockShape(inputs=width, outputs=width)]
    for level, multiplier in reversed(list(enumerate(sizes.multipliers))):
        if level < len(sizes.multipliers) - 1:
            shapes.append(BlockShape(inputs=width, outputs=width, resampling="up"))
        for index in range(sizes.blocks + 1):
            attend = resolution >> level in sizes.attention_resolutions
            attend &= index == sizes.blocks or not attend_last_only
            out = sizes.channels * multiplier
            shapes.append(BlockShape(inputs=width, outputs=out, skip=skips.pop(), attend=attend))
            width = out
    return shapes


def resample(x: Tensor, resampling: Resampling | None) -> Tensor:
    """x (N, C, H, W) halved or doubled in H and W by the filter [1, 1] (arXiv 2206.00364, appendix F), or as it is.

    Filtering with [1/2, 1/2] in both directions and keeping every second value is the mean of 2x2 values; its
    transpose, scaled to keep the mean, repeats each value 2x2 times.
    """
    if resampling == "down":
        return functional.avg_pool2d(x, 2)
    if resampling == "up":
        return _doubled(x) if torch.compiler.is_compiling() else functional.interpolate(x, scale_factor=2.0)
    return x


def _doubled(x: Tensor) -> Tensor:
    """``interpolate`` without an index, in the order of channels-last memory.

    Its derivative is a sum of four, where the compiler has the one of ``interpolate`` add value by value, atomically:
    2.8 of 64 ms of a DDPM++ with one block per level on an H200.
    """
    n, c, height, width = x.shape
    repeated = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, height, 2, width, 2, c)
    return repeated.reshape(n, 2 * height, 2 * width, c).permute(0, 3, 1, 2)


def one_hot(condition: Tensor | None, num_classes: int, like: Tensor) -> Tensor:
    """Classes as (N, num_classes) float32. "None" is a row of zeros.

    condition: (N,) int64 in [0, num_classes], where num_classes means "none", or None: "none" for all.
    like: a tensor of N rows on the device of the result.
    """
    if condition is None:
        return torch.zeros(len(like), num_classes, device=like.device)
    return (condition[:, None] == torch.arange(num_classes, device=like.device)).float()
