"""The noise-conditional quality classifier c(x_t, sigma): did this noisy picture come from the clean set?

Arxiv 2506.10038, section 3.1, with a far cheaper network than half of a diffusion U-Net. Damage is seen in local
spectra: blur empties high frequencies, JPEG zeroes the coefficients of 8x8 blocks. The front end is therefore the
block DCT, an orthonormal transform, so white noise stays white and every coefficient's expected energy at noise level
sigma is known: power + sigma^2. For Gaussian fields the best log odds are linear in energies over that expectation
(Neyman and Pearson), which the linear path below can represent; the perceptrons add what natural pictures need.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..schemas.errors import UserError
from ..schemas.space import Space

BLOCK = 8
_NOISE_FEATURES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """block_width: hidden units per 8x8 block; width: hidden units per picture; dropout: on the latter."""

    block_width: int = 96
    width: int = 192
    dropout: float = 0.1


class QualityClassifier(nn.Module):
    """Callable (x, sigma) -> logit of "clean" (contract: any such callable can annotate)."""

    power: Tensor
    transform: Tensor
    positions: Tensor

    def __init__(self, space: Space, config: ClassifierConfig, power: Tensor | None = None) -> None:
        """power: (views, channels * 64) mean energy of each coefficient of noise-free pictures, from ``mean_power``."""
        super().__init__()
        self.space, self.config = space, config
        bands, views = space.channels * BLOCK * BLOCK, len(_views(space))
        transform = torch.kron(_opponent_colours(space.channels).T, _block_dct())  # both at once, (C * 64, C * 64)
        self.register_buffer("transform", transform.contiguous(), persistent=False)
        self.register_buffer("positions", torch.linspace(-1.5, 1.5, _NOISE_FEATURES), persistent=False)
        self.register_buffer("power", torch.ones(views, bands) if power is None else power.float())
        self.block_in = nn.ModuleList(nn.Linear(bands, config.block_width) for _ in range(views))
        self.block_noise = nn.Linear(_NOISE_FEATURES, 2 * config.block_width)
        self.block_out = nn.ModuleList(nn.Linear(config.block_width, config.block_width) for _ in range(views))
        self.joint_in = nn.Linear(views * 2 * (bands + config.block_width), config.width)
        self.joint_noise = nn.Linear(_NOISE_FEATURES, 2 * config.width)
        self.joint_mid = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.joint_out = nn.Linear(config.width, 1)
        self.linear_in = nn.Linear(_NOISE_FEATURES, 64)
        self.linear_out = nn.Linear(64, views * bands + 1)
        for layer in (self.joint_out, self.linear_out):  # an untrained classifier says 0.5 everywhere
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def coefficients(self, x: Tensor) -> list[Tensor]:
        """Orthonormal block DCT of opponent colours, in several views (see ``_views``).

        x: (N, C, H, W). Returns one (N, blocks, C * 64) per view.
        """
        pyramid = {0: x}
        for halvings in range(1, 1 + max(halvings for halvings, _ in _views(self.space))):
            pyramid[halvings] = 2 * nn.functional.avg_pool2d(pyramid[halvings - 1], 2)  # white noise stays white
        out = []
        for halvings, shift in _views(self.space):
            side = pyramid[halvings].shape[-1] - shift
            out.append(_blocks(pyramid[halvings][:, :, shift:side, shift:side]) @ self.transform)
        return out

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Log odds that x is a noisy clean picture.

        x: (N, C, H, W) float, a picture in the space plus noise. sigma: (N,) its noise level, > 0.
        Returns (N,) float32 logits; their sigmoid is the probability under equal shares of clean and other pictures.
        """
        noise = self._noise_features(sigma.float())
        block_noise = self.block_noise(noise)[:, None]
        features, means = [], []
        for view, coefficients in enumerate(self.coefficients(x)):
            expected = self.power[view] + sigma.float()[:, None] ** 2
            relative = coefficients.float().square() / expected[:, None]  # about 1 on average
            logs = torch.log(relative + 1e-3)
            blocks = nn.functional.silu(_film(self.block_in[view](logs), block_noise))
            blocks = nn.functional.silu(self.block_out[view](blocks))
            mean = relative.mean(dim=1)
            features += [torch.log(mean + 1e-3), logs.mean(dim=1), blocks.mean(dim=1), blocks.amax(dim=1)]
            means.append(mean.clamp(max=8.0) - 1.0)  # energies of natural pictures have heavy tails
        joint = nn.functional.silu(_film(self.joint_in(torch.cat(features, dim=1)), self.joint_noise(noise)))
        joint = self.dropout(nn.functional.silu(self.joint_mid(joint)))
        weights = self.linear_out(nn.functional.silu(self.linear_in(noise)))
        linear = (weights[:, :-1] * torch.cat(means, dim=1)).sum(dim=1) + weights[:, -1]
        logits: Tensor = self.joint_out(joint)[:, 0] + linear
        return logits

    def _noise_features(self, sigma: Tensor) -> Tensor:
        """Smooth bumps over ln(sigma / sigma_data), (N,) -> (N, 16): one every 0.6 nats from 0.01 to 80."""
        position = torch.log(sigma / self.space.sigma_data)[:, None] / 3.0
        return torch.exp(-0.5 * ((position - self.positions) / 0.2) ** 2)


def _views(space: Space) -> list[tuple[int, int]]:
    """(halvings, shift) of each grid of blocks.

    Scales 1, 1/2, 1/4, 1/8 while a block fits; at each, the grid of JPEG files and, where there is room, one shifted by
    half a block, which sees the edges of the first.
    """
    sides = [(halvings, space.resolution >> halvings) for halvings in range(4)]
    aligned = [(halvings, 0) for halvings, side in sides if side >= BLOCK]
    return aligned + [(halvings, BLOCK // 2) for halvings, side in sides if side >= 2 * BLOCK]


def mean_power(pictures: Tensor, space: Space) -> Tensor:
    """Mean energy of each coefficient. pictures: (N, C, H, W) float in the space. Returns (views, C * 64)."""
    levels = QualityClassifier(space, ClassifierConfig()).to(pictures.device).coefficients(pictures)
    return torch.stack([level.square().mean(dim=(0, 1)) for level in levels])


def save_classifier(path: Path, classifier: QualityClassifier) -> str:
    """Write weights and, in the header, what they need as JSON. Returns the file's BLAKE2b-128 in hex."""
    header = {"space": classifier.space.to_json(), "config": asdict(classifier.config)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    data = save(tensors, metadata={"ambient-classifier": json.dumps(header, sort_keys=True)})
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def load_classifier(path: Path) -> tuple[QualityClassifier, str]:
    """The classifier in a file written by ``save_classifier``, in evaluation mode, and the file's BLAKE2b-128."""
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ambient-classifier"])
        tensors = load(data)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} is not a classifier written by ambient ({error})") from error
    classifier = QualityClassifier(Space.from_json(header["space"]), ClassifierConfig(**header["config"]))
    classifier.load_state_dict(tensors)
    return classifier.eval(), hashlib.blake2b(data, digest_size=16).hexdigest()


def _blocks(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, blocks, C * 64); a remainder at the right and bottom is left out."""
    n, c, height, width = x.shape
    h, w = height // BLOCK, width // BLOCK
    x = x[:, :, : h * BLOCK, : w * BLOCK].reshape(n, c, h, BLOCK, w, BLOCK)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, c * BLOCK * BLOCK)


def _film(hidden: Tensor, scale_shift: Tensor) -> Tensor:
    """Feature-wise affine modulation (arXiv 1709.07871)."""
    scale, shift = scale_shift.chunk(2, dim=-1)
    return hidden * (1 + scale) + shift


def _block_dct() -> Tensor:
    """(64, 64) float32: column k is the k-th orthonormal 8x8 DCT-II basis picture, flattened."""
    i = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi * (i[None, :] + 0.5) * i[:, None] / BLOCK) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ui,vj->ijuv", basis, basis).reshape(BLOCK * BLOCK, BLOCK * BLOCK).float()


def _opponent_colours(channels: int) -> Tensor:
    """Orthonormal luminance, red-green, yellow-blue for three channels; other channel counts are left alone."""
    if channels != 3:
        return torch.eye(channels)
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    return nn.functional.normalize(rows, dim=1)
