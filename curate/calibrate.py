"""Calibration: dividing log odds by a temperature for each noise level, so that p_clean means what it says.

The temperatures are fitted on noised pictures of the fold that a member did not train on (Guo et al., "On calibration
of modern neural networks", 2017, with the temperature a smooth function of ln sigma). All members share them, so what
one picture adds to what decides about it is one part in the number of pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from .classifier import QualityClassifier
from .fit import Fit, FitConfig
from .noisy import Sample, noised

_BINS = 15
_PAIRS = 16_384  # noised pictures per member: at high noise, where odds are small, it takes many to see what they hold
_PRIOR = 1.0  # standard deviation of a log temperature before anything is known
_BANDS = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 80.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Expected calibration error per band of noise levels, of temperatures fitted on the other members' pictures.

    bands: (low, high) noise level; before, after: mean |share of clean pictures - p_clean|, weighted by bins.
    """

    bands: list[tuple[float, float]]
    before: list[float]
    after: list[float]

    @property
    def rows(self) -> list[list[float]]:
        """[low, high, before, after] of each band."""
        return [[low, high, b, a] for (low, high), b, a in zip(self.bands, self.before, self.after, strict=True)]

    def __str__(self) -> str:
        of = [f"{low:g}-{high:g}: {b:.3f} to {a:.3f}" for low, high, b, a in self.rows]
        return "calibration error by noise level, before and after: " + ", ".join(of)


def calibrate(fit: Fit, clean: Sample, other: Sample, config: FitConfig) -> Calibration:
    """Give the members of a fit their temperatures. Returns how far off p_clean was, and is."""
    held = [_held_out(member, fit, k, clean, other, config) for k, member in enumerate(fit.members)]
    features = fit.members[0].temperature_features
    shared = _temperatures(held, features)
    adjusted = []
    for k, (logits, sigma, _) in enumerate(held):
        rest = [held[j] for j in range(len(held)) if j != k] or held
        adjusted.append(logits * torch.exp(-features(sigma.float()).double() @ _temperatures(rest, features).double()))
    for member in fit.members:
        member.log_temperature.copy_(shared)
    logits, sigma, labels = (torch.cat(parts) for parts in zip(*held, strict=True))
    before, after, bands = [], [], list(pairwise(_BANDS))
    for low, high in bands:
        mine = (sigma >= low) & (sigma < high)
        before.append(calibration_error(torch.sigmoid(logits[mine]), labels[mine]))
        after.append(calibration_error(torch.sigmoid(torch.cat(adjusted)[mine]), labels[mine]))
    return Calibration(bands=bands, before=before, after=after)


def calibration_error(p: Tensor, labels: Tensor) -> float:
    """Expected calibration error over 15 bins of equally many; p, labels: (N,)."""
    order = p.argsort()
    bins = torch.stack([p, labels.to(p)], dim=1)[order].tensor_split(_BINS)
    return float(
        sum(abs(part[:, 0].mean() - part[:, 1].mean()) * len(part) for part in bins if len(part)) / max(len(p), 1)
    )


@torch.inference_mode()
def _held_out(
    member: QualityClassifier, fit: Fit, fold: int, clean: Sample, other: Sample, config: FitConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, noise levels and labels of noised pictures that a member did not train on."""
    split = fit.splits[fold]
    generator = torch.Generator(clean.pictures.device).manual_seed(config.seed + 2 + fold)
    parts, levels = [], (config.lowest, config.highest)
    for _ in range(_PAIRS // 512):
        x, sigma, group, labels = noised(clean, other, split.held_clean, split.held_other, 256, levels, generator)
        parts.append((member(x, sigma, group).double(), sigma.double(), labels.double()))
    logits, sigma, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, sigma, labels


def _temperatures(held: list[tuple[Tensor, Tensor, Tensor]], features: Callable[[Tensor], Tensor]) -> Tensor:
    """(16,) log temperatures with the lowest cross-entropy on these logits."""
    logits, sigma, labels = (torch.cat(parts).clone() for parts in zip(*held, strict=True))
    weights = features(sigma.float()).double()
    decay = 0.5 / (_PRIOR**2 * len(labels))
    found = torch.zeros(weights.shape[1], dtype=torch.float64, device=logits.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scaled = logits * torch.exp(-weights @ found)
        value = nn.functional.binary_cross_entropy_with_logits(scaled, labels) + decay * found.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return found.detach().float()
