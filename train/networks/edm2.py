"""EDM2, the magnitude-preserving U-Net (arXiv 2312.02696, configuration G; equations are its appendix B's).

Every operation keeps the mean square of its values at 1 on average, so nothing needs biases, group norms or warm-up,
and the length of a weight vector has no effect: only its direction is learned.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layout import BlockShape, Sizes, blocks_down, blocks_up, one_hot, resample

_EPS = 1e-4
_HEAD_CHANNELS = 64
_RESIDUAL = 0.3  # share of a residual branch in its sum
_SILU_MAGNITUDE = 0.596  # root of the mean of silu(z)^2, z ~ N(0, 1)
_VARIANCE_WAVES = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class EDM2Config(Sizes):
    """Sizes of an EDM2; those of XS unless told. The others published for ImageNet-512 (table 6) are presets."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    dropout: float = 0.0


class EDM2(nn.Module):
    """F(x, c_noise, condition). An untrained one returns exactly 0: its output gain starts at zero."""

    def __init__(self, config: EDM2Config, *, channels: int, resolution: int, num_classes: int = 0) -> None:
        """channels, resolution: of the pictures. num_classes: 0 for an unconditional network."""
        super().__init__()
        config.check_resolution(resolution)
        down, up = blocks_down(config, resolution), blocks_up(config, resolution, attend_last_only=False)
        width = config.channels * max(config.multipliers)
        self.embedding = Embedding(config.channels, width, num_classes)
        self.first = MPLayer(channels + 1, config.channels, 3, 3)
        self.down = nn.ModuleList(Block(shape, width, dropout=config.dropout, encoder=True) for shape in down)
        self.up = nn.ModuleList(Block(shape, width, dropout=config.dropout, encoder=False) for shape in up)
        self.joins = tuple(shape.skip > 0 for shape in up)
        self.last = MPLayer(up[-1].outputs, channels, 3, 3)
        self.gain = nn.Parameter(torch.zeros(1))
        self.variance_waves = Fourier(_VARIANCE_WAVES)
        self.variance = MPLayer(_VARIANCE_WAVES, 1)
        self.normalize_weights_()

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Raw output (N, C, H, W).

        x: (N, C, H, W) of about unit variance; a channel of ones beside it stands in for biases.
        c_noise: (N,) ln(sigma) / 4.
        condition: (N,) int64 in [0, num_classes], where num_classes means "none", or None: "none" for all.
        """
        embedding = self.embedding(c_noise, condition)
        h: Tensor = self.first(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block, joins in zip(self.up, self.joins, strict=True):
            h = block(mp_cat(h, skips.pop()) if joins else h, embedding)
        out: Tensor = self.last(h) * self.gain
        return out

    def log_variance(self, c_noise: Tensor) -> Tensor:
        """u(sigma) (N,) float32 of the loss exp(-u) lambda ||D - y||^2 + u (eqs. 14 and 21). c_noise: (N,)."""
        with torch.autocast(c_noise.device.type, enabled=False):
            out: Tensor = self.variance(self.variance_waves(c_noise))
        return out.squeeze(1)

    @torch.no_grad()
    def normalize_weights_(self) -> None:
        """Forced weight normalisation (eq. 66): give each output's weights a mean square of 1 again.

        To be called once after each step of the optimiser. The paper does it inside the forward pass of training, just
        before the weights are used, which has the same effect, but would write to parameters within a compiled graph.
        """
        weights = [layer.weight for layer in self.modules() if isinstance(layer, MPLayer)]
        lengths = [torch.linalg.vector_norm(w, dim=tuple(range(1, w.ndim)), keepdim=True) for w in weights]
        torch._foreach_div_(lengths, [math.sqrt(w[0].numel()) for w in weights])
        torch._foreach_clamp_min_(lengths, _EPS)
        for weight, length in zip(weights, lengths, strict=True):
            weight.div_(length)


class Block(nn.Module):
    """Residual block (figure 21), then self-attention where asked for.

    Going down, the main path is resampled, projected, and normalised in each position; going up, only the sum of
    branches is projected. The embedding scales the channels of the residual branch, at first by 1.
    """

    def __init__(self, shape: BlockShape, embedding: int, *, dropout: float, encoder: bool) -> None:
        super().__init__()
        inputs, outputs = shape.inputs + shape.skip, shape.outputs
        self.encoder, self.resampling = encoder, shape.resampling
        self.conv1 = MPLayer(outputs if encoder else inputs, outputs, 3, 3)
        self.scale = MPLayer(embedding, outputs)
        self.scale_gain = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = MPLayer(outputs, outputs, 3, 3)
        self.skip = nn.Identity() if inputs == outputs else MPLayer(inputs, outputs, 1, 1)
        self.attention = Attention(outputs) if shape.attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = resample(x, self.resampling)
        if self.encoder:
            x = normalize(self.skip(x), dim=1)
        h = self.conv1(mp_silu(x))
        h = mp_silu(h * (1 + self.scale_gain * self.scale(embedding))[:, :, None, None])
        h = self.conv2(self.dropout(h))
        out: Tensor = self.attention(mp_sum(x if self.encoder else self.skip(x), h, _RESIDUAL))
        return out


class Attention(nn.Module):
    """Residual multi-head cosine self-attention: queries, keys and values have unit mean square (appendix B.3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        heads = max(1, channels // _HEAD_CHANNELS)
        self.heads = 1 if channels % heads else heads
        self.qkv = MPLayer(channels, 3 * channels)
        self.out = MPLayer(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (N, H W, C), without a copy where x is channels-last
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = normalize(qkv, dim=-1).permute(2, 0, 3, 1, 4).unbind()
        h = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return mp_sum(x, self.out(h).transpose(1, 2).unflatten(2, x.shape[2:]), _RESIDUAL)


class Embedding(nn.Module):
    """Noise level and class in one vector (figure 21). In float32 also under autocast.

    The noise level goes through Fourier features, the class through its one-hot vector times sqrt(num_classes), each
    through a layer of its own; their magnitude-preserving sum through SiLU. "None" has nothing to add to the sum.
    """

    def __init__(self, waves: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.waves = Fourier(waves)
        self.noise = MPLayer(waves, width)
        self.classes = MPLayer(num_classes, width) if num_classes else None

    def forward(self, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        """c_noise: (N,). condition: (N,) int64 or None. Returns (N, width) float32."""
        with torch.autocast(c_noise.device.type, enabled=False):
            h: Tensor = self.noise(self.waves(c_noise))
            if self.classes is not None:
                classes = one_hot(condition, self.num_classes, c_noise) * math.sqrt(self.num_classes)
                h = mp_sum(h, self.classes(classes), 0.5)
            return mp_silu(h)


class Fourier(nn.Module):
    """Magnitude-preserving Fourier features (eq. 75): sqrt(2) cos(2 pi (f c + p)), f ~ N(0, 1), p ~ U(0, 1), fixed."""

    def __init__(self, waves: int) -> None:
        super().__init__()
        self.register_buffer("frequency", 2 * math.pi * torch.randn(waves))
        self.register_buffer("phase", 2 * math.pi * torch.rand(waves))

    def forward(self, c_noise: Tensor) -> Tensor:
        """c_noise: (N,). Returns (N, waves) float32."""
        phase = c_noise.float()[:, None] * self.get_buffer("frequency") + self.get_buffer("phase")
        return math.sqrt(2) * phase.cos()


class MPLayer(nn.Module):
    """Convolution, or linear layer where kernel is empty, with unit-length weights per output and no bias (eq. 47).

    Normalising in the forward pass makes gradients orthogonal to the weights; how long the stored ones are matters to
    the optimiser alone, and ``EDM2.normalize_weights_`` keeps them at a mean square of 1.
    """

    def __init__(self, inputs: int, outputs: int, *kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))

    def forward(self, x: Tensor) -> Tensor:
        weight = normalize(self.weight, dim=tuple(range(1, self.weight.ndim)))
        weight = weight * (1 / math.sqrt(weight[0].numel()))
        if weight.ndim == 2:
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


def normalize(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x with a mean square of 1 over dim (eq. 30). The paper's epsilon stands under the root: smooth at 0."""
    wide = x.float()
    return (wide * (wide.square().mean(dim, keepdim=True) + _EPS**2).rsqrt()).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over its magnitude (eq. 81)."""
    return functional.silu(x) / _SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The mean of a and b in which b has that share, scaled to keep the magnitude of independent a and b (eq. 88)."""
    scale = 1 / math.hypot(1 - share, share)
    return a * ((1 - share) * scale) + b * (share * scale)


def mp_cat(a: Tensor, b: Tensor) -> Tensor:
    """a and b along the channels, scaled so that each contributes the same to what follows (eq. 103, t = 1/2)."""
    total = a.shape[1] + b.shape[1]
    return torch.cat([a * math.sqrt(total / 2 / a.shape[1]), b * math.sqrt(total / 2 / b.shape[1])], dim=1)
