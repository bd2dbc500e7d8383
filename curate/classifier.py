"""The noise-conditional quality classifier c(x_t, sigma): did this noisy picture come from the clean set?

Arxiv 2506.10038, section 3.1, with a far cheaper network than half of a diffusion U-Net. Damage is seen in local
spectra: blur empties high frequencies, JPEG zeroes the coefficients of 8x8 blocks. The front end is therefore the
block DCT, an orthonormal transform, so white noise stays white and every coefficient's expected energy at noise level
sigma is known: power + sigma^2.

Two paths add up to the log odds. The likelihood path takes coefficients as independent Gaussians, in a mixture of a few
spectra for clean and for other pictures: exact for Gaussian fields, and for any pictures once the noise is well above
the damaged coefficients, which is where sigma_min is decided and where little can be learned from noisy labels alone.
The network path learns what natural pictures need beyond that.

What p_clean says of a damage depends on what else is in S_B: a mild blur among heavy ones looks clean by comparison. So
the classifier may be told the group of a picture (its source) and compares with that group alone; clean pictures get
random groups while it trains. Last, the log odds are divided by a temperature for the noise level, fitted on held-out
pictures (curate/calibrate.py).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..schemas.space import Space
from .transforms import dct, hartley, opponent_colours

BLOCK = 8
_NOISE_FEATURES = 16
_GOOD, _BAD = 2, 4  # spectra of clean and of other pictures
_LIMIT = 4.0  # of the likelihood path, in nats: pictures are not Gaussian fields, and it must not drown the network


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """block_width: hidden units per 8x8 block; width: hidden units per picture; dropout: of what a
    picture is known by; groups: of S_B."""

    block_width: int = 96
    width: int = 192
    dropout: float = 0.4
    groups: int = 1

    @property
    def bad(self) -> int:
        """Spectra of each group."""
        return _BAD if self.groups == 1 else _BAD // 2


class QualityClassifier(nn.Module):
    """Callable (x, sigma[, group]) -> logit of "clean" (contract: any callable (x, sigma) can annotate)."""

    power: Tensor
    colours: Tensor
    dct: Tensor
    hartley: Tensor
    positions: Tensor
    log_temperature: Tensor

    def __init__(self, space: Space, config: ClassifierConfig, spectra: Tensor | None = None) -> None:
        """spectra: (S, views, channels * 64) from ``mean_spectra``: 2 of clean pictures, then those of each group."""
        super().__init__()
        self.space, self.config = space, config
        bands, views = space.channels * BLOCK * BLOCK, len(_views(space))
        self.register_buffer("colours", opponent_colours(space.channels), persistent=False)
        for name, basis in (("dct", dct(BLOCK)), ("hartley", hartley(BLOCK))):
            self.register_buffer(name, torch.kron(basis, basis), persistent=False)  # (64, 64)
        self.register_buffer("positions", torch.linspace(-1.5, 1.5, _NOISE_FEATURES), persistent=False)
        self.register_buffer("log_temperature", torch.zeros(_NOISE_FEATURES))
        slots = _GOOD + config.groups * config.bad
        spectra = torch.ones(slots, views, bands) if spectra is None else spectra.float()
        self.register_buffer("power", (spectra[:_GOOD].mean(dim=0) + spectra[_GOOD:].mean(dim=0)) / 2)
        self.log_spectra = nn.Parameter(spectra.clamp(min=1e-8).log())
        self.block_in = nn.ModuleList(nn.Linear(bands, config.block_width) for _ in range(views))
        self.block_noise = nn.Linear(_NOISE_FEATURES, 2 * config.block_width)
        self.block_group = nn.Embedding(config.groups, 2 * config.block_width)
        self.block_out = nn.ModuleList(nn.Linear(config.block_width, config.block_width) for _ in range(views))
        self.joint_in = nn.Linear(views * 2 * (bands + config.block_width), config.width)
        self.joint_noise = nn.Linear(_NOISE_FEATURES, 2 * config.width)
        self.joint_group = nn.Embedding(config.groups, 2 * config.width)
        self.joint_mid = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.joint_out = nn.Linear(config.width, 1)
        self.trust = nn.Linear(_NOISE_FEATURES, views + slots)  # in each view; and each spectrum's share
        groups = (self.block_group.weight, self.joint_group.weight)
        for zero in (self.joint_out.weight, self.joint_out.bias, self.trust.weight, self.trust.bias, *groups):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.trust.bias[0] = 1.0  # one view holds every pixel once; the others repeat it

    def coefficients(self, x: Tensor) -> list[Tensor]:
        """Orthonormal transforms of 8x8 blocks of opponent colours, in several views (see ``_views``).

        x: (N, C, H, W). Returns one (N, blocks, C * 64) per view.
        """
        pyramid = {0: torch.einsum("ij,njhw->nihw", self.colours, x)}
        views = _views(self.space)
        for halvings in range(1, 1 + max(halvings for halvings, _, _ in views)):
            pyramid[halvings] = _halved(pyramid[halvings - 1])
        out = []
        for halvings, shift, periodic in views:
            side = pyramid[halvings].shape[-1] - shift
            blocks = _blocks(pyramid[halvings][:, :, shift:side, shift:side])
            out.append((blocks @ (self.hartley if periodic else self.dct)).flatten(2))
        return out

    def forward(self, x: Tensor, sigma: Tensor, group: Tensor | None = None) -> Tensor:
        """Log odds that x is a noisy clean picture.

        x: (N, C, H, W) float, a picture in the space plus noise. sigma: (N,) its noise level, > 0. group: (N,) int64,
        which other pictures it is compared with; the first when left out.
        Returns (N,) float32 logits; their sigmoid is the probability under equal shares of clean and other pictures.
        """
        if sigma.stride(0) == 0:
            sigma = sigma[:1]  # one level for the whole batch: what depends on it alone is computed once
        group = torch.zeros(len(x), dtype=torch.int64, device=x.device) if group is None else group
        noise, variance = self._noise_features(sigma.float()), sigma.float()[:, None] ** 2
        block_film = (self.block_noise(noise) + self.block_group(group))[:, None]
        slots = self._slots(group)
        features, surprises = [], []
        for view, coefficients in enumerate(self.coefficients(x)):
            expected = self.power[view] + variance
            # In place, because memory is what this costs; nothing up to here has a gradient.
            relative = coefficients.float().square().mul_(expected.reciprocal()[:, None])  # about 1 on average
            mean = relative.mean(dim=1)
            logs = relative.add_(1e-3).log_()
            blocks = nn.functional.silu(_film(self.block_in[view](logs), block_film))
            blocks = nn.functional.silu(self.block_out[view](blocks))
            features += [torch.log(mean + 1e-3), logs.mean(dim=1), blocks.mean(dim=1), blocks.amax(dim=1)]
            surprises.append(coefficients.shape[1] * self._surprise(view, mean, expected, variance, slots))
        joint_film = self.joint_noise(noise) + self.joint_group(group)
        joint = nn.functional.silu(_film(self.joint_in(self.dropout(torch.cat(features, dim=1))), joint_film))
        joint = self.dropout(nn.functional.silu(self.joint_mid(joint)))
        logits: Tensor = self.joint_out(joint)[:, 0] + self._odds(noise, torch.stack(surprises, dim=1), slots)
        return logits * torch.exp(-self.temperature_features(sigma.float()) @ self.log_temperature)

    def _odds(self, noise: Tensor, surprises: Tensor, slots: Tensor) -> Tensor:
        """Log odds by the likelihood path; surprises: (N, views, K) under the spectra in slots, (N, K)."""
        trust = self.trust(noise)
        views = surprises.shape[1]
        shares = trust[:, views:].expand(len(slots), -1).gather(1, slots)
        likelihood = shares - 0.5 * (trust[:, :views, None] * surprises).sum(dim=1)
        good, bad = likelihood[:, :_GOOD].logsumexp(dim=1), likelihood[:, _GOOD:].logsumexp(dim=1)
        odds: Tensor = good - bad + math.log(self.config.bad / _GOOD)
        return _LIMIT * torch.tanh(odds / _LIMIT)

    def _slots(self, group: Tensor) -> Tensor:
        """(N, K) which spectra matter to each picture: the clean ones, then those of its group."""
        own = _GOOD + group[:, None] * self.config.bad + torch.arange(self.config.bad, device=group.device)
        return torch.cat([torch.arange(_GOOD, device=group.device).expand(len(group), _GOOD), own], dim=1)

    def _surprise(self, view: int, mean: Tensor, expected: Tensor, variance: Tensor, slots: Tensor) -> Tensor:
        """-2 log N(0, spectrum + sigma^2) per block, up to a constant, under the spectra in `slots`: (N, K)."""
        spectra = self.log_spectra[:, view].exp()
        if len(variance) == 1:
            ratio = expected / (spectra + variance)
            return (mean @ ratio.T - ratio.log().sum(dim=1)).gather(1, slots)
        # Not spectra[slots]: its gradient is summed by atomic additions, in an order that differs from run to run.
        ratio = expected[:, None] / (nn.functional.embedding(slots, spectra) + variance[:, None])
        return (ratio * mean[:, None] - ratio.log()).sum(dim=2)

    def temperature_features(self, sigma: Tensor) -> Tensor:
        """Weights of the entries of ``log_temperature`` at each level, (N,) -> (N, 16): they add up to 1."""
        bumps = self._noise_features(sigma)
        return bumps / bumps.sum(dim=1, keepdim=True)

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


def mean_spectra(clean: Tensor, other: Tensor, space: Space, group: Tensor | None = None, groups: int = 1) -> Tensor:
    """Mean energy of each coefficient in 2 parts of the clean pictures and a few of each group of other pictures.

    The parts are found by k-means on log spectra. clean, other: (N, C, H, W) float in the space; group: (N,) int64 of
    other pictures, fewer than `groups`. Returns (S, views, C * 64), as ``QualityClassifier`` takes them.
    """
    config = ClassifierConfig(groups=groups)
    front = QualityClassifier(space, ClassifierConfig()).to(clean.device)
    sets = [(clean, _GOOD), *((other if group is None else other[group == g], config.bad) for g in range(groups))]
    spectra = []
    for pictures, count in sets:
        energy = torch.stack([level.square().mean(dim=1) for level in front.coefficients(pictures)], dim=1)
        parts = _k_means(torch.log(energy + 1e-6).flatten(1), count)
        whole = energy.mean(dim=0)
        spectra += [energy[parts == g].mean(dim=0) if (parts == g).any() else whole for g in range(count)]
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


def _halved(x: Tensor) -> Tensor:
    """Half the side: sums of 2x2 pixels over 2, so that white noise stays white."""
    top, bottom = x[..., ::2, :], x[..., 1::2, :]
    rows = top[..., : bottom.shape[-2], :] + bottom
    left, right = rows[..., ::2], rows[..., 1::2]
    return 0.5 * (left[..., : right.shape[-1]] + right)


def _blocks(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, blocks, C, 64); a remainder at the right and bottom is left out."""
    n, c, height, width = x.shape
    h, w = height // BLOCK, width // BLOCK
    x = x[:, :, : h * BLOCK, : w * BLOCK].reshape(n, c, h, BLOCK, w, BLOCK)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, c, BLOCK * BLOCK)


def _film(hidden: Tensor, scale_shift: Tensor) -> Tensor:
    """Feature-wise affine modulation (arXiv 1709.07871)."""
    scale, shift = scale_shift.chunk(2, dim=-1)
    return hidden * (1 + scale) + shift
