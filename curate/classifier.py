"""The noise-conditional quality classifier c(x_t, sigma): did this noisy picture come from the clean set?

Arxiv 2506.10038, section 3.1, with a far cheaper network than half of a diffusion U-Net. Damage is seen in spectra:
blur empties high frequencies, JPEG zeroes the coefficients of 8x8 blocks. The front end is therefore the DCT of blocks
and of the whole picture: orthonormal transforms, so white noise stays white and every coefficient's expected energy
at noise level sigma is known: power + sigma^2.

Two paths add up to the log odds. The likelihood path takes coefficients as independent Gaussians, in a mixture of a few
spectra for clean and for other pictures: exact for Gaussian fields, and for any pictures once the noise is well above
the damaged coefficients, which is where sigma_min is decided and where little can be learned from noisy labels alone.
It starts with as much say as held-out pictures grant it (curate/fit.py). The network path learns what natural pictures
need beyond that.

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
from .spectra import Spectra

_NOISE_FEATURES = 16
_FLOOR = 1e-3  # of energies that are told apart: of noise of 0.03
_PRIOR = 10.0  # pictures' worth of the mean over all parts in a part's spectrum
_GOOD, _BAD = 2, 4  # spectra of clean and of other pictures


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
    positions: Tensor
    log_temperature: Tensor

    def __init__(self, space: Space, config: ClassifierConfig, spectra: Tensor | None = None) -> None:
        """spectra: (S, views, channels * 64) from ``mean_spectra``: 2 of clean pictures, then those of each group."""
        super().__init__()
        self.space, self.config = space, config
        self.front = Spectra(space)
        views, bands = self.front.behind.shape
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
        self.log_limit = nn.Parameter(torch.tensor(math.log(4.0)))
        groups = (self.block_group.weight, self.joint_group.weight)
        for zero in (self.joint_out.weight, self.joint_out.bias, self.trust.weight, self.trust.bias, *groups):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.trust.bias[0] = 1.0  # in the first view

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
        for view, energies in enumerate(self.front(x)):
            expected = self.power[view] + variance
            # In place, because memory is what this costs; nothing up to here has a gradient.
            relative = energies.mul_(expected.reciprocal()[:, None])  # about 1 on average
            mean = relative.mean(dim=1)
            surprises.append(self._surprise(view, mean, expected, variance, slots))
            logs = relative.add_(1e-3).log_()
            blocks = nn.functional.silu(_film(self.block_in[view](logs), block_film))
            blocks = nn.functional.silu(self.block_out[view](blocks))
            features += [torch.log(mean + 1e-3), logs.mean(dim=1), blocks.mean(dim=1), blocks.amax(dim=1)]
        joint_film = self.joint_noise(noise) + self.joint_group(group)
        joint = nn.functional.silu(_film(self.joint_in(self.dropout(torch.cat(features, dim=1))), joint_film))
        joint = self.dropout(nn.functional.silu(self.joint_mid(joint)))
        logits: Tensor = self.joint_out(joint)[:, 0] + self.odds(noise, torch.stack(surprises, dim=1), slots)
        return logits * torch.exp(-self.temperature_features(sigma.float()) @ self.log_temperature)

    def evidence(self, x: Tensor, sigma: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``odds`` takes, without the network path. Arguments as ``forward``."""
        noise, variance, slots = self._noise_features(sigma.float()), sigma.float()[:, None] ** 2, self._slots(group)
        surprises = []
        for view, energies in enumerate(self.front(x)):
            expected = self.power[view] + variance
            surprises.append(self._surprise(view, energies.mean(dim=1) / expected, expected, variance, slots))
        return noise, torch.stack(surprises, dim=1), slots

    def odds(self, noise: Tensor, surprises: Tensor, slots: Tensor) -> Tensor:
        """Log odds by the likelihood path; surprises: (N, views, K) under the spectra in slots, (N, K)."""
        trust = self.trust(noise)
        views = surprises.shape[1]
        shares = trust[:, views:].expand(len(slots), -1).gather(1, slots)
        likelihood = shares - 0.5 * (trust[:, :views, None] * surprises).sum(dim=1)
        good, bad = likelihood[:, :_GOOD].logsumexp(dim=1), likelihood[:, _GOOD:].logsumexp(dim=1)
        odds: Tensor = good - bad + math.log(self.config.bad / _GOOD)
        limit = self.log_limit.exp()
        return limit * torch.tanh(odds / limit)

    def _slots(self, group: Tensor) -> Tensor:
        """(N, K) which spectra matter to each picture: the clean ones, then those of its group."""
        own = _GOOD + group[:, None] * self.config.bad + torch.arange(self.config.bad, device=group.device)
        return torch.cat([torch.arange(_GOOD, device=group.device).expand(len(group), _GOOD), own], dim=1)

    def _surprise(self, view: int, mean: Tensor, expected: Tensor, variance: Tensor, slots: Tensor) -> Tensor:
        """-2 log N(0, spectrum + sigma^2) of a picture, up to a constant, under the spectra in `slots`: (N, K)."""
        spectra, behind = self.log_spectra[:, view].exp(), self.front.behind[view]
        if len(variance) == 1:
            ratio = expected / (spectra + variance)
            return ((mean * behind) @ ratio.T - ratio.log() @ behind).gather(1, slots)
        # Not spectra[slots]: its gradient is summed by atomic additions, in an order that differs from run to run.
        ratio = expected[:, None] / (nn.functional.embedding(slots, spectra) + variance[:, None])
        return (ratio * mean[:, None] - ratio.log()) @ behind

    def temperature_features(self, sigma: Tensor) -> Tensor:
        """Weights of the entries of ``log_temperature`` at each level, (N,) -> (N, 16): they add up to 1."""
        bumps = self._noise_features(sigma)
        return bumps / bumps.sum(dim=1, keepdim=True)

    def _noise_features(self, sigma: Tensor) -> Tensor:
        """Smooth bumps over ln(sigma / sigma_data), (N,) -> (N, 16): one every 0.6 nats from 0.01 to 80."""
        position = torch.log(sigma / self.space.sigma_data)[:, None] / 3.0
        return torch.exp(-0.5 * ((position - self.positions) / 0.2) ** 2)


def _film(hidden: Tensor, scale_shift: Tensor) -> Tensor:
    """Feature-wise affine modulation (arXiv 1709.07871)."""
    scale, shift = scale_shift.chunk(2, dim=-1)
    return hidden * (1 + scale) + shift


def mean_spectra(clean: Tensor, other: Tensor, space: Space, group: Tensor | None = None, groups: int = 1) -> Tensor:
    """Mean energy of each band in 2 parts of the clean pictures and a few of each group of other pictures.

    clean, other: (N, C, H, W) float in the space; group: (N,) int64 of other pictures, fewer than `groups`.
    Returns (S, views, C * 64), as ``QualityClassifier`` takes them.
    """
    bad = ClassifierConfig(groups=groups).bad
    front = Spectra(space).to(clean.device)
    sets = [(clean, _GOOD), *((other if group is None else other[group == g], bad) for g in range(groups))]
    spectra = []
    for pictures, count in sets:
        energy = torch.stack([view.mean(dim=1) for view in front(pictures)], dim=1)
        parts = _likeliest_parts(energy[:, -1], front.behind[-1], count)
        spectra.append(_means(energy.flatten(1), parts, count).view(count, *energy.shape[1:]))
    return torch.cat(spectra)


def _likeliest_parts(energy: Tensor, behind: Tensor, count: int, rounds: int = 20) -> Tensor:
    """Part (0 ... count - 1) of each picture: classification EM of Gaussian coefficients, a spectrum for each part.

    energy: (N, bands) means over `behind` (bands,) coefficients. Starts from quantiles of the mean log energy.
    Returns (N,) int64.
    """
    energy = energy + _FLOOR
    order = energy.log().mean(dim=1).argsort()
    parts = torch.empty_like(order)
    parts[order] = torch.arange(len(order), device=order.device) * count // len(order)
    for _ in range(rounds):
        spectra = _means(energy, parts, count)
        parts = ((energy * behind) @ spectra.reciprocal().T + spectra.log() @ behind).argmin(dim=1)
    return parts


def _means(energy: Tensor, parts: Tensor, count: int) -> Tensor:
    """Mean energy of each part, (N, D) -> (count, D), drawn towards that of all as by a few more such pictures."""
    held = nn.functional.one_hot(parts, count).to(energy)
    return (held.T @ energy + _PRIOR * energy.mean(dim=0)) / (held.sum(dim=0)[:, None] + _PRIOR)
