"""The noise-conditional quality classifier c(x_t, sigma): did this noisy picture come from the clean set?

Arxiv 2506.10038, section 3.1, with a far cheaper network than half of a diffusion U-Net. Damage is seen in local
spectra: blur empties high frequencies, JPEG zeroes the coefficients of 8x8 blocks. The front end is therefore the
block DCT, an orthonormal transform, so white noise stays white and every coefficient's expected energy at noise level
sigma is known: power + sigma^2.

Two paths add up to the log odds. The likelihood path takes coefficients as independent Gaussians, in a mixture of a few
spectra for clean and for other pictures: exact for Gaussian fields, and for any pictures once the noise is well above
the damaged coefficients, which is where sigma_min is decided and where little can be learned from noisy labels alone.
The network path learns what natural pictures need beyond that.
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
_GOOD, _BAD = 2, 4  # spectra of clean and of other pictures
_LIMIT = 4.0  # of the likelihood path, in nats: pictures are not Gaussian fields, and it must not drown the network


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """block_width: hidden units per 8x8 block; width: hidden units per picture; dropout: on the latter."""

    block_width: int = 96
    width: int = 192
    dropout: float = 0.2


class QualityClassifier(nn.Module):
    """Callable (x, sigma) -> logit of "clean" (contract: any such callable can annotate)."""

    power: Tensor
    dct: Tensor
    hartley: Tensor
    positions: Tensor

    def __init__(self, space: Space, config: ClassifierConfig, spectra: Tensor | None = None) -> None:
        """spectra: (6, views, channels * 64) from ``mean_spectra``: 2 of clean pictures, then 4 of others."""
        super().__init__()
        self.space, self.config = space, config
        bands, views = space.channels * BLOCK * BLOCK, len(_views(space))
        colours = _opponent_colours(space.channels).T.contiguous()
        for name, basis in (("dct", _dct()), ("hartley", _hartley())):  # colours and basis at once, (C * 64, C * 64)
            self.register_buffer(name, torch.kron(colours, torch.kron(basis, basis)).contiguous(), persistent=False)
        self.register_buffer("positions", torch.linspace(-1.5, 1.5, _NOISE_FEATURES), persistent=False)
        spectra = torch.ones(_GOOD + _BAD, views, bands) if spectra is None else spectra.float()
        self.register_buffer("power", (spectra[:_GOOD].mean(dim=0) + spectra[_GOOD:].mean(dim=0)) / 2)
        self.log_spectra = nn.Parameter(spectra.clamp(min=1e-8).log())
        self.block_in = nn.ModuleList(nn.Linear(bands, config.block_width) for _ in range(views))
        self.block_noise = nn.Linear(_NOISE_FEATURES, 2 * config.block_width)
        self.block_out = nn.ModuleList(nn.Linear(config.block_width, config.block_width) for _ in range(views))
        self.joint_in = nn.Linear(views * 2 * (bands + config.block_width), config.width)
        self.joint_noise = nn.Linear(_NOISE_FEATURES, 2 * config.width)
        self.joint_mid = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.joint_out = nn.Linear(config.width, 1)
        self.trust = nn.Linear(_NOISE_FEATURES, views + _GOOD + _BAD)  # in each view; and each spectrum's share
        for zero in (self.joint_out.weight, self.joint_out.bias, self.trust.weight, self.trust.bias):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.trust.bias[0] = 1.0  # one view holds every pixel once; the others repeat it

    def coefficients(self, x: Tensor) -> list[Tensor]:
        """Orthonormal transforms of 8x8 blocks of opponent colours, in several views (see ``_views``).

        x: (N, C, H, W). Returns one (N, blocks, C * 64) per view.
        """
        pyramid = {0: x}
        views = _views(self.space)
        for halvings in range(1, 1 + max(halvings for halvings, _, _ in views)):
            pyramid[halvings] = 2 * nn.functional.avg_pool2d(pyramid[halvings - 1], 2)  # white noise stays white
        out = []
        for halvings, shift, periodic in views:
            side = pyramid[halvings].shape[-1] - shift
            blocks = _blocks(pyramid[halvings][:, :, shift:side, shift:side])
            out.append(blocks @ (self.hartley if periodic else self.dct))
        return out

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Log odds that x is a noisy clean picture.

        x: (N, C, H, W) float, a picture in the space plus noise. sigma: (N,) its noise level, > 0.
        Returns (N,) float32 logits; their sigmoid is the probability under equal shares of clean and other pictures.
        """
        if sigma.stride(0) == 0:
            sigma = sigma[:1]  # one level for the whole batch: what depends on it alone is computed once
        noise = self._noise_features(sigma.float())
        block_noise = self.block_noise(noise)[:, None]
        trust = self.trust(noise)
        likelihood = trust[:, len(self.block_in) :]
        features = []
        for view, coefficients in enumerate(self.coefficients(x)):
            variance = sigma.float()[:, None] ** 2
            expected = self.power[view] + variance
            relative = coefficients.float().square() / expected[:, None]  # about 1 on average
            logs = torch.log(relative + 1e-3)
            blocks = nn.functional.silu(_film(self.block_in[view](logs), block_noise))
            blocks = nn.functional.silu(self.block_out[view](blocks))
            mean = relative.mean(dim=1)
            features += [torch.log(mean + 1e-3), logs.mean(dim=1), blocks.mean(dim=1), blocks.amax(dim=1)]
            ratio = expected[:, None] / (self.log_spectra[:, view].exp() + variance[:, None])  # (N or 1, 6, C * 64)
            surprise = (ratio * mean[:, None] - torch.log(ratio)).sum(dim=2)  # -2 log N(0, spectrum + sigma^2) + const
            likelihood = likelihood - 0.5 * coefficients.shape[1] * trust[:, view, None] * surprise
        joint = nn.functional.silu(_film(self.joint_in(torch.cat(features, dim=1)), self.joint_noise(noise)))
        joint = self.dropout(nn.functional.silu(self.joint_mid(joint)))
        good, bad = likelihood[:, :_GOOD].logsumexp(dim=1), likelihood[:, _GOOD:].logsumexp(dim=1)
        odds = good - bad + math.log(_BAD / _GOOD)
        logits: Tensor = self.joint_out(joint)[:, 0] + _LIMIT * torch.tanh(odds / _LIMIT)
        return logits

    def _noise_features(self, sigma: Tensor) -> Tensor:
        """Smooth bumps over ln(sigma / sigma_data), (N,) -> (N, 16): one every 0.6 nats from 0.01 to 80."""
        position = torch.log(sigma / self.space.sigma_data)[:, None] / 3.0
        return torch.exp(-0.5 * ((position - self.positions) / 0.2) ** 2)


def _views(space: Space) -> list[tuple[int, int, bool]]:
    """(halvings, shift, periodic) of each grid of blocks.

    Scales 1, 1/2, 1/4, 1/8 while a block fits; at each, the DCT on the grid of JPEG files and, where there is room, on
    one shifted by half a block, which sees the edges of the first. At the coarsest, where blocks are few and their
    borders weigh most, also Hartley's transform: the DCT continues a block by its mirror image, that by repeating it.
    """
    sides = [(halvings, space.resolution >> halvings) for halvings in range(4)]
    aligned = [(halvings, 0, False) for halvings, side in sides if side >= BLOCK]
    shifted = [(halvings, BLOCK // 2, False) for halvings, side in sides if side >= 2 * BLOCK]
    return [*aligned, *shifted, (aligned[-1][0], 0, True)]


def mean_spectra(clean: Tensor, other: Tensor, space: Space) -> Tensor:
    """Mean energy of each coefficient in 2 groups of clean and 4 of other pictures, grouped by their log spectra.

    clean, other: (N, C, H, W) float in the space. Returns (6, views, C * 64).
    """
    front = QualityClassifier(space, ClassifierConfig()).to(clean.device)
    spectra = []
    for pictures, count in ((clean, _GOOD), (other, _BAD)):
        energy = torch.stack([level.square().mean(dim=1) for level in front.coefficients(pictures)], dim=1)
        groups = _k_means(torch.log(energy + 1e-6).flatten(1), count)
        whole = energy.mean(dim=0)
        spectra += [energy[groups == g].mean(dim=0) if (groups == g).any() else whole for g in range(count)]
    return torch.stack(spectra)


def _k_means(points: Tensor, count: int, rounds: int = 20) -> Tensor:
    """Group (0 ... count - 1) of each point, (N, D) -> (N,); starts from quantiles of the mean coordinate."""
    order = points.mean(dim=1).argsort()
    starts = torch.linspace(0, len(points) - 1, 2 * count + 1, device=points.device).long()[1::2]
    centres = points[order[starts]]
    for _ in range(rounds):
        groups = torch.cdist(points, centres).argmin(dim=1)
        for g in range(count):
            if (groups == g).any():
                centres[g] = points[groups == g].mean(dim=0)
    return groups


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


def _dct() -> Tensor:
    """(8, 8) float32: column k is the k-th orthonormal DCT-II basis vector."""
    i = torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi * (i[:, None] + 0.5) * i[None, :] / BLOCK) * math.sqrt(2 / BLOCK)
    basis[:, 0] /= math.sqrt(2)
    return basis.float()


def _hartley() -> Tensor:
    """(8, 8) float32: column k is cos + sin of k periods per block: real, orthonormal, with Fourier's energies."""
    i = torch.arange(BLOCK, dtype=torch.float64)
    angle = 2 * math.pi * i[:, None] * i[None, :] / BLOCK
    return ((torch.cos(angle) + torch.sin(angle)) / math.sqrt(BLOCK)).float()


def _opponent_colours(channels: int) -> Tensor:
    """Orthonormal luminance, red-green, yellow-blue for three channels; other channel counts are left alone."""
    if channels != 3:
        return torch.eye(channels)
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    return nn.functional.normalize(rows, dim=1)
