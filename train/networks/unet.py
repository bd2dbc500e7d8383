"""A compact noise-conditional U-Net: minutes on a CPU when small, bf16 and channels-last on a GPU."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...schemas.errors import UserError
from .layout import Sizes, resample
from .norm import GroupNorm

_HEAD_CHANNELS = 64
_GROUP_CHANNELS = 8  # GroupNorm: at least so many channels to a group, and at most 32 groups


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig(Sizes):
    """Sizes of a compact U-Net; blocks also attend at the lowest level, always.

    augment_dim: numbers that tell of a picture's augmentation (EDM's: 9), or 0.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention_resolutions: tuple[int, ...] = ()
    dropout: float = 0.0
    augment_dim: int = 0

    def __post_init__(self) -> None:
        Sizes.__post_init__(self)
        if self.augment_dim < 0:
            raise UserError(f"network.augment_dim must not be negative: {self.augment_dim}")


class UNet(nn.Module):
    """F(x, c_noise, condition): ADM's shape (arXiv 2105.05233) without its extras.

    An untrained one returns exactly 0: its last convolution, and each residual branch's, start at zero.
    """

    def __init__(self, config: UNetConfig, *, channels: int, resolution: int, num_classes: int = 0) -> None:
        """channels, resolution: of the pictures. num_classes: 0 for an unconditional network."""
        super().__init__()
        config.check_resolution(resolution)
        widths = [config.channels * m for m in config.multipliers]
        self.embedding = Embedding(config.channels, num_classes, config.augment_dim)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)

        def block(in_channels: int, out_channels: int, level: int) -> Block:
            lowest = level == len(widths) - 1
            attend = lowest or resolution >> level in config.attention_resolutions
            return Block(in_channels, out_channels, self.embedding.width, dropout=config.dropout, attend=attend)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        for level, out in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(config.blocks):
                blocks.append(block(width, out, level))
                width = out
                skips.append(width)
            self.down.append(blocks)
        self.middle = block(width, width, len(widths) - 1)
        for level, out in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            for _ in range(config.blocks + (level == 0)):
                blocks.append(block(width + skips.pop(), out, level))
                width = out
            self.up.append(blocks)
        self.last_norm = group_norm(width)
        self.last = zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None, *, augment: Tensor | None = None
    ) -> Tensor:
        """Raw output (N, C, H, W).

        x: (N, C, H, W) of about unit variance. c_noise: (N,) ln(sigma) / 4. condition: (N,) int64 classes, or None.
        augment: (N, augment_dim) float, all zero for an unchanged picture, or None: unchanged, all of them.
        Raises ValueError for augment where the network was built without.
        """
        embedding = self.embedding(c_noise, condition, augment)
        h: Tensor = self.first(x)
        skips = [h]
        for level, blocks in enumerate(self.down):
            if level:
                h = resample(h, "down")
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
                skips.append(h)
        h = self.middle(h, embedding)
        for level, blocks in enumerate(self.up):
            if level:
                h = resample(h, "up")
            for block in blocks:  # type: ignore[attr-defined]
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        out: Tensor = self.last(functional.silu(self.last_norm(h)))
        return out


class Block(nn.Module):
    """W x + F(x) (arXiv 1512.03385, eq. 2), then self-attention where asked for.

    F is norm, SiLU, convolution, twice; the embedding scales and shifts the second norm: FiLM (1709.07871), adaptive
    group normalisation in 2105.05233 (section 3).
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int, *, dropout: float, attend: bool) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = Attention(out_channels) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        out: Tensor = self.attention(self.skip(x) + self.conv2(self.dropout(h)))
        return out


class Attention(nn.Module):
    """x + W softmax(Q K^T / sqrt(d)) V: multi-head self-attention (arXiv 1706.03762, eq. 1) over a map's positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD_CHANNELS)
        if channels % self.heads:
            self.heads = 1
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # The 1x1 convolutions as products over the channels: no copy where x is channels-last.
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, H W, C)
        qkv = functional.linear(tokens, self.qkv.weight.flatten(1), self.qkv.bias)
        query, key, value = qkv.view(*qkv.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, H W, d)
        h = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        h = functional.linear(h, self.out.weight.flatten(1), self.out.bias)
        out: Tensor = x + h.transpose(1, 2).reshape(x.shape)
        return out


class Embedding(nn.Module):
    """Fourier features of c_noise through two layers, plus a learnt vector per class; class num_classes is "none".

    An augmentation goes through a linear layer without bias: an unchanged picture adds nothing.
    """

    def __init__(self, channels: int, num_classes: int, augment_dim: int) -> None:
        super().__init__()
        self.width = 4 * channels
        self.num_classes = num_classes
        # From sigma 0.002 to 80, c_noise spans 2.65: the slowest wave sees that as less than a turn.
        frequency = math.pi * 2.0 ** torch.linspace(-1, 3, channels // 2)
        self.register_buffer("frequency", frequency, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(channels, self.width), nn.SiLU(), nn.Linear(self.width, self.width), nn.SiLU()
        )
        self.classes = nn.Embedding(num_classes + 1, channels) if num_classes else None
        self.augment = nn.Linear(augment_dim, channels, bias=False) if augment_dim else None

    def forward(self, c_noise: Tensor, condition: Tensor | None, augment: Tensor | None) -> Tensor:
        """Returns (N, 4 * channels).

        c_noise: (N,). condition: (N,) int64 in [0, num_classes], or None for "none". augment: (N, augment_dim) or None.
        """
        phase = c_noise[:, None] * self.get_buffer("frequency")
        features = torch.cat([phase.cos(), phase.sin()], dim=1)
        if self.classes is not None:
            if condition is None:
                condition = torch.full_like(c_noise, self.num_classes, dtype=torch.int64)
            features = features + self.classes(condition)
        if augment is not None:
            if self.augment is None:
                raise ValueError("this network was built with augment_dim 0")
            features = features + self.augment(augment)
        out: Tensor = self.layers(features)
        return out


def group_norm(channels: int) -> GroupNorm:
    """GroupNorm with the most groups, at most 32, that divide the channels and have _GROUP_CHANNELS or more each."""
    groups = next(g for g in range(min(32, channels // _GROUP_CHANNELS), 0, -1) if channels % g == 0)
    return GroupNorm(groups, channels)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weight and bias 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
