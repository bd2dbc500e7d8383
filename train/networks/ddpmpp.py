"""DDPM++, the U-Net of EDM for CIFAR-10, FFHQ and AFHQ (arXiv 2206.00364, tables 7 and 8, appendix F).

The shape is that of arXiv 2011.13456 (appendix H, "DDPM++ cont."), which widens Ho et al.'s (2006.11239, appendix B).
Default sizes are the paper's for 32x32: 55.7 M parameters. At 64x64 it has multipliers (1, 2, 2, 2): 61.8 M.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...schemas.errors import UserError
from .layout import BlockShape, Sizes, blocks_down, blocks_up, one_hot, resample
from .norm import GroupNorm

_SKIP_SCALE = math.sqrt(0.5)  # a sum of two things of variance 1 has variance 1 again (2011.13456, appendix H)
_NORM_EPS = 1e-6
_LONGEST_WAVE = 10_000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DDPMPPConfig(Sizes):
    """Sizes of a DDPM++. augment_dim: numbers that tell of a picture's augmentation (EDM's: 9), or 0."""

    channels: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.13
    augment_dim: int = 0

    def __post_init__(self) -> None:
        Sizes.__post_init__(self)
        if self.augment_dim < 0:
            raise UserError(f"network.augment_dim must not be negative: {self.augment_dim}")


class DDPMPP(nn.Module):
    """F(x, c_noise, condition). An untrained one returns exactly 0: its last convolution starts at zero."""

    def __init__(self, config: DDPMPPConfig, *, channels: int, resolution: int, num_classes: int = 0) -> None:
        """channels, resolution: of the pictures. num_classes: 0 for an unconditional network."""
        super().__init__()
        config.check_resolution(resolution)
        down, up = blocks_down(config, resolution), blocks_up(config, resolution, attend_last_only=True)
        self.embedding = Embedding(config.channels, num_classes, config.augment_dim)
        width = self.embedding.width
        self.first = conv(channels, config.channels, 3)
        self.down = nn.ModuleList(Block(shape, width, dropout=config.dropout) for shape in down)
        self.up = nn.ModuleList(Block(shape, width, dropout=config.dropout) for shape in up)
        self.joins = tuple(shape.skip > 0 for shape in up)
        self.last_norm = group_norm(up[-1].outputs)
        self.last = conv(up[-1].outputs, channels, 3, gain=0)

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None, *, augment: Tensor | None = None
    ) -> Tensor:
        """Raw output (N, C, H, W).

        x: (N, C, H, W) of about unit variance. c_noise: (N,) ln(sigma) / 4.
        condition: (N,) int64 in [0, num_classes], where num_classes means "none", or None: "none" for all.
        augment: (N, augment_dim) float, all zero for an unchanged picture, or None: unchanged, all of them.
        Raises ValueError for augment where the network was built without.
        """
        embedding = self.embedding(c_noise, condition, augment)
        h: Tensor = self.first(x)
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block, joins in zip(self.up, self.joins, strict=True):
            h = block(torch.cat([h, skips.pop()], dim=1) if joins else h, embedding)
        out: Tensor = self.last(functional.silu(self.last_norm(h)))
        return out


class Block(nn.Module):
    """sqrt(1/2) (W x + F(x)): residual (arXiv 1512.03385, eq. 2), of BigGAN's kind; then self-attention if asked.

    F is norm, SiLU, convolution, twice; the embedding is added before the second norm (2006.11239, appendix B), and the
    sum is scaled (2011.13456, appendix H). A block that resamples does so before its first convolution and on its skip,
    which then has a 1x1 convolution W even where the width stays.
    """

    def __init__(self, shape: BlockShape, embedding: int, *, dropout: float) -> None:
        super().__init__()
        inputs, outputs = shape.inputs + shape.skip, shape.outputs
        self.resampling = shape.resampling
        self.norm1 = group_norm(inputs)
        self.conv1 = conv(inputs, outputs, 3)
        self.shift = linear(embedding, outputs)
        self.norm2 = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(outputs, outputs, 3, gain=0)
        same = inputs == outputs and shape.resampling is None
        self.skip = nn.Identity() if same else conv(inputs, outputs, 1)
        self.attention = Attention(outputs) if shape.attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(resample(functional.silu(self.norm1(x)), self.resampling))
        h = functional.silu(self.norm2(h + self.shift(embedding)[:, :, None, None]))
        h = self.conv2(self.dropout(h))
        # A 1x1 convolution and doubling commute; the convolution runs on the smaller map.
        x = resample(self.skip(x), "up") if self.resampling == "up" else self.skip(resample(x, self.resampling))
        out: Tensor = self.attention(_SKIP_SCALE * (x + h))
        return out


class Attention(nn.Module):
    """sqrt(1/2) (x + W softmax(Q K^T / sqrt(C)) V): self-attention (arXiv 1706.03762, eq. 1) over a map's positions.

    One head, of queries, keys and values that are linear in the norm of x (2006.11239, appendix B).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        # Variance 0.1 / channels, as in 2011.13456; Xavier's over (channels, 3 channels) is 0.5 / channels.
        self.qkv = linear(channels, 3 * channels, gain=math.sqrt(0.2))
        self.out = linear(channels, channels, gain=0)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, H W, C), without a copy where x is channels-last
        query, key, value = self.qkv(tokens).unsqueeze(1).chunk(3, dim=-1)
        h = functional.scaled_dot_product_attention(query, key, value).squeeze(1)
        out: Tensor = _SKIP_SCALE * (x + self.out(h).transpose(1, 2).unflatten(2, x.shape[2:]))
        return out


class Embedding(nn.Module):
    """Sinusoidal embedding of c_noise, with class and augmentation added, through two layers.

    sin(f c_noise) and cos(f c_noise), f from 1 to 1/10,000 (arXiv 1706.03762, section 3.5; 2006.11239, appendix B).
    A class is its one-hot vector times sqrt(num_classes), through a linear layer, whose bias is all that "none" leaves;
    an augmentation goes through a linear layer without bias, so an unchanged picture adds nothing
    (2206.00364, appendix F). In float32 also under autocast: that is cheap, and a change of sigma by 1 % is hardly one
    rounding step of bfloat16 in the fastest waves, and none in the others.
    """

    def __init__(self, channels: int, num_classes: int, augment_dim: int) -> None:
        super().__init__()
        self.width = 4 * channels
        self.num_classes = num_classes
        half = channels // 2
        frequency = _LONGEST_WAVE ** -(torch.arange(half) / (half - 1))
        self.register_buffer("frequency", frequency, persistent=False)
        self.classes = linear(num_classes, channels) if num_classes else None
        self.augment = linear(augment_dim, channels, bias=False) if augment_dim else None
        self.layer1 = linear(channels, self.width)
        self.layer2 = linear(self.width, self.width)

    def forward(self, c_noise: Tensor, condition: Tensor | None, augment: Tensor | None) -> Tensor:
        """c_noise: (N,). condition: (N,) int64 or None. augment: (N, augment_dim) or None. (N, width) float32."""
        with torch.autocast(c_noise.device.type, enabled=False):
            phase = c_noise.float()[:, None] * self.get_buffer("frequency")
            features = torch.cat([phase.sin(), phase.cos()], dim=1)
            if self.classes is not None:
                classes = one_hot(condition, self.num_classes, c_noise)
                features = features + self.classes(classes * math.sqrt(self.num_classes))
            if augment is not None:
                if self.augment is None:
                    raise ValueError("this network was built with augment_dim 0")
                features = features + self.augment(augment.float())
            out: Tensor = functional.silu(self.layer2(functional.silu(self.layer1(features))))
        return out


def group_norm(channels: int) -> GroupNorm:
    """GroupNorm with 32 groups, or as many of 4 channels or more as divide the channels."""
    groups = next(g for g in range(min(32, channels // 4), 0, -1) if channels % g == 0)
    return GroupNorm(groups, channels, eps=_NORM_EPS)


def conv(inputs: int, outputs: int, kernel: int, *, gain: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps H and W, with Xavier-uniform weights times gain, and bias 0."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def linear(inputs: int, outputs: int, *, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform weights times gain, and bias 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
