"""Training the quality classifier: balanced, on noised pictures of S_G and S_B, with a held-out part to check it.

Arxiv 2506.10038, section 3.1: binary cross-entropy, half of every batch from each set (unbalanced training cost the
paper 5.34 -> 6.04 FID).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..schemas.space import Space
from .classifier import ClassifierConfig, QualityClassifier, mean_spectra
from .curves import Classifier
from .images import to_unit

HELD_OUT = 0.2
MIN_ACCURACY = 0.6
_DECISIVE = (0.05, 10.0)  # below, most damage is plain to see; above, next to none is left


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """steps: optimiser steps; batch_size: pictures per step, half from each set; lowest, highest: noise levels."""

    steps: int = 1000
    batch_size: int = 512
    lr: float = 1e-3
    weight_decay: float = 1e-2
    lowest: float = 0.01
    highest: float = 80.0
    checks: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What training found: held_out_loss in nats; accuracy: balanced, on held-out pictures at the lowest noise."""

    classifier: QualityClassifier
    held_out_loss: float
    accuracy: float


def fit_classifier(
    clean: Tensor,
    other: Tensor,
    held_clean: Tensor,
    held_other: Tensor,
    *,
    space: Space,
    config: FitConfig,
    network: ClassifierConfig | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Fit:
    """Train a classifier of clean against other; keep the weights with the lowest held-out loss.

    clean, other, held_clean, held_other: (N, C, H, W) pictures, N >= 1, on the device to train on: uint8, or float32
    in the units of the space.
    """
    device = clean.device
    generator = torch.Generator(device).manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        samples = [_unit(s[torch.randperm(len(s), device=device, generator=generator)[:4096]]) for s in (clean, other)]
        spectra = mean_spectra(samples[0], samples[1], space)
        classifier = QualityClassifier(space, network or ClassifierConfig(), spectra.cpu()).to(device)
        best, best_loss = copy.deepcopy(classifier.state_dict()), math.inf
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps, pct_start=0.1)
        check_every = max(1, config.steps // config.checks)
        for step in range(1, config.steps + 1):
            loss = _loss(classifier, clean, other, config.batch_size // 2, config, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step % check_every == 0 or step == config.steps:
                held_loss = _held_out_loss(classifier, held_clean, held_other, config)
                if held_loss < best_loss:
                    best, best_loss = copy.deepcopy(classifier.state_dict()), held_loss
            progress(1)
    classifier.load_state_dict(best)
    classifier.eval()
    accuracy = balanced_accuracy(classifier, held_clean, held_other, config.lowest, seed=config.seed)
    return Fit(classifier=classifier, held_out_loss=best_loss, accuracy=accuracy)


@torch.inference_mode()
def balanced_accuracy(
    classifier: Classifier, clean: Tensor, other: Tensor, sigma: float, *, margin: float = 0.05, seed: int = 0
) -> float:
    """Mean of the two hit rates at noise level sigma.

    A probability within `margin` of 0.5 counts half: thresholds ask whether p_clean > 0.5 - epsilon, so leaning the
    right way by less than that decides nothing, and a classifier that knows nothing scores 0.5.
    clean, other: (N, C, H, W) uint8, or float32 in the units of the space.
    """
    generator = torch.Generator(clean.device).manual_seed(seed)
    rates = []
    for pictures, sign in ((clean, 1), (other, -1)):
        hits = 0.0
        for part in torch.split(pictures, 1024):
            x0 = _unit(part)
            z = torch.randn(x0.shape, device=part.device, generator=generator)
            lean = sign * (
                torch.sigmoid(classifier(x0 + sigma * z, torch.tensor([sigma]).to(x0).expand(len(x0)))) - 0.5
            )
            hits += float((lean > margin).sum()) + 0.5 * float((lean.abs() <= margin).sum())
        rates.append(hits / len(pictures))
    return sum(rates) / 2


def _loss(
    classifier: QualityClassifier,
    clean: Tensor,
    other: Tensor,
    half: int,
    config: FitConfig,
    generator: torch.Generator,
) -> Tensor:
    """Cross-entropy of one balanced batch; ln sigma is uniform over the levels, half of it over the decisive ones."""
    device = clean.device
    picks = [torch.randint(len(s), (half,), device=device, generator=generator) for s in (clean, other)]
    x0 = _unit(torch.cat([clean[picks[0]], other[picks[1]]]))
    flips = torch.rand(2 * half, 1, 1, 1, device=device, generator=generator) < 0.5
    x0 = torch.where(flips, x0.flip(3), x0)
    ranges = torch.tensor([(config.lowest, config.highest), _DECISIVE], device=device).log()[torch.arange(2 * half) % 2]
    share = torch.rand(2 * half, device=device, generator=generator)
    sigma = torch.lerp(ranges[:, 0], ranges[:, 1], share).exp()
    x = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, device=device, generator=generator)
    labels = (torch.arange(2 * half, device=device) < half).float()
    return nn.functional.binary_cross_entropy_with_logits(classifier(x, sigma), labels)


@torch.inference_mode()
def _held_out_loss(classifier: QualityClassifier, clean: Tensor, other: Tensor, config: FitConfig) -> float:
    """Mean cross-entropy over held-out pictures, the same noise at every check."""
    classifier.eval()
    generator = torch.Generator(clean.device).manual_seed(config.seed + 1)
    losses = [_loss(classifier, clean, other, 512, config, generator) for _ in range(4)]
    classifier.train()
    return float(torch.stack(losses).mean())


def _unit(pictures: Tensor) -> Tensor:
    return to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
