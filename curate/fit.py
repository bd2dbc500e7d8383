"""Training quality classifiers: balanced, on noised pictures of S_G and S_B, one for each fold of the pool.

Arxiv 2506.10038, section 3.1: binary cross-entropy, half of every batch from each set (unbalanced training cost the
paper 5.34 -> 6.04 FID).

A member trains without its fold, which is therefore held out for it: its loss there says when to stop, its hits there
are the accuracy that is reported. What the fold decides is shared by all of its pictures: how the members start, one
number of steps for all, and the temperatures (curate/calibrate.py). No weight has seen a picture that it will judge.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..schemas.errors import UserError
from ..schemas.space import Space
from .classifier import ClassifierConfig, QualityClassifier, mean_spectra
from .crossfit import FOLDS, folds_of
from .noisy import Sample, draw_table, noised, unit
from .replay import Replayed, SideBySide
from .spectra import complete_views, views_of

MIN_ACCURACY = 0.6
_FIRST_CHECK, _CHECK_EVERY = 50, 1.15  # steps; ratio of steps
_TRUSTS, _LIMITS = [2.0**-k for k in range(9)], [2.0, 4.0, 8.0, 16.0]  # of the likelihood path, at the start
_LONG, _GAIN = 5000, 0.003  # steps from which on more of them must bring the held-out loss down by this share of it
_START_VALUES = 1 << 25  # of noisy pictures that decide on it
_AVERAGED = 0.1  # of the steps so far, about: the weights that are kept are averages over these


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """steps: the most optimiser steps; batch_size: pictures per step of each member, half from each set;
    lowest, highest: noise levels."""

    steps: int = 1000
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-2
    lowest: float = 0.01
    highest: float = 80.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What training found, one entry per fold.

    members: members[k] was trained without fold k. held_out_loss: in nats, mean over the members, on their own folds.
    accuracy: likewise, balanced, at the lowest noise. steps: after which the loss was lowest. turned: whether it was
    watched for long enough after its last gain (any fall; of thousands of steps, one of 0.3 %); if not, more steps
    might have been better.
    """

    members: list[QualityClassifier]
    splits: list["Split"]
    held_out_loss: float
    accuracy: float
    steps: int
    turned: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """What one member trains on, and what it does not: indices into the two samples."""

    clean: Tensor
    other: Tensor
    held_clean: Tensor
    held_other: Tensor


def cross_fit(
    clean: Sample,
    other: Sample,
    *,
    space: Space,
    config: FitConfig,
    folds: int = FOLDS,
    network: ClassifierConfig | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Fit:
    """Train one classifier per fold, each without the pictures of its fold; the folds are those of ``folds_of``.

    Raises UserError when a fold holds no picture of a set.
    """
    of_clean, of_other = (folds_of(sample.names, folds, config.seed) for sample in (clean, other))
    splits = []
    for fold in range(folds):
        places = [(f == fold).nonzero()[:, 0] for f in (of_clean, of_other)]
        rest = [(f != fold).nonzero()[:, 0] for f in (of_clean, of_other)]
        if not all(len(place) for place in (*places, *rest)):
            parts, fewer = ("two: one half", "") if folds == 2 else (f"{folds} folds: one", ", name fewer --folds")
            raise UserError(
                f"too few pictures to cut in {parts} has none of a set; add pictures{fewer} or try --seed 1"
            )
        splits.append(Split(clean=rest[0], other=rest[1], held_clean=places[0], held_other=places[1]))
    return fit_members(clean, other, splits, space=space, config=config, network=network, progress=progress)


def fit_members(
    clean: Sample,
    other: Sample,
    splits: list[Split],
    *,
    space: Space,
    config: FitConfig,
    network: ClassifierConfig | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Fit:
    """Train one classifier per split, all for the same number of steps: that with the lowest mean held-out loss.

    The learning rate is constant and the weights are averaged, so that the path does not depend on how long it may
    become: more steps change nothing once the loss has turned.
    """
    device = clean.pictures.device
    generator = torch.Generator(device).manual_seed(config.seed)
    half = max(config.batch_size // 2, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        trainees = [_Trainee(clean, other, split, half, space, config, network, generator) for split in splits]
        _choose_start(trainees)
        advance = Replayed(SideBySide([trainee.step for trainee in trainees], device), device, generator)
        best_loss, best_step, next_check, turned = math.inf, 0, _FIRST_CHECK, False
        gained_loss, gained_step = math.inf, 0
        for step in range(1, config.steps + 1):
            for trainee in trainees:
                trainee.prepare(step)
            advance()
            progress(1)
            if step in (next_check, config.steps):
                next_check = math.ceil(step * _CHECK_EVERY)
                loss = sum(trainee.held_out_loss() for trainee in trainees) / len(trainees)
                if loss < best_loss:
                    best_loss, best_step = loss, step
                    for trainee in trainees:
                        trainee.keep()
                if loss < gained_loss * (1 - _GAIN if step > _LONG else 1):
                    gained_loss, gained_step = loss, step
                if turned := step > gained_step + _watched(gained_step):
                    break
        members = [trainee.kept() for trainee in trainees]
    accuracy = sum(_accuracy(m, clean, other, s, config) for m, s in zip(members, splits, strict=True)) / len(members)
    return Fit(
        members=members, splits=splits, held_out_loss=best_loss, accuracy=accuracy, steps=best_step, turned=turned
    )


def _watched(step: int) -> float:
    """Steps without a gain after which the loss has turned: 70 % more, of thousands, where the loss is smooth, 30 %."""
    return max(min(0.7 * step, 0.3 * _LONG), 0.3 * step)


@torch.no_grad()
def _choose_start(trainees: list["_Trainee"]) -> None:
    """Start the likelihood path in the view, with the confidence and up to the odds that serve held-out pictures best.

    That is all of it on Gaussian fields, next to none on photographs, whose coefficients are neither Gaussian nor
    independent: a small clean set is overfitted before the network has unlearned it. One start for all members.
    """
    evidence = [trainee.held_out_evidence() for trainee in trainees]

    def loss(start: tuple[int, float, float]) -> float:
        total = 0.0
        for trainee, (parts, labels) in zip(trainees, evidence, strict=True):
            trainee.start(*start)
            total += float(nn.functional.binary_cross_entropy_with_logits(trainee.member.odds(*parts), labels))
        return total

    best = min(itertools.product(complete_views(trainees[0].member.space), _TRUSTS, _LIMITS), key=loss)
    for trainee in trainees:
        trainee.start(*best)


class _Trainee:
    """One classifier on its way: its weights, their running average, and the average that did best."""

    def __init__(
        self,
        clean: Sample,
        other: Sample,
        split: Split,
        half: int,
        space: Space,
        config: FitConfig,
        network: ClassifierConfig | None,
        generator: torch.Generator,
    ) -> None:
        """half: clean pictures in a batch, and others."""
        self.clean, self.other, self.split, self.config, self.generator = clean, other, split, config, generator
        self.half = half
        self.table, self.held_table = (draw_table(other.groups[places]) for places in (split.other, split.held_other))
        network = network or ClassifierConfig()
        device = clean.pictures.device
        some = [
            i[torch.randperm(len(i), device=device, generator=generator)[:4096]] for i in (split.clean, split.other)
        ]
        samples = [unit(sample.pictures[i]) for sample, i in zip((clean, other), some, strict=True)]
        spectra = mean_spectra(samples[0], samples[1], space, other.groups[some[1]], network.groups)
        self.member = QualityClassifier(space, network, spectra.cpu()).to(device)
        self.average = copy.deepcopy(self.member).eval()
        self.best = copy.deepcopy(self.average.state_dict())
        self.rate, self.share = torch.zeros((), device=device), torch.zeros((), device=device)
        cuda = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.member.parameters(), lr=self.rate, weight_decay=config.weight_decay, capturable=cuda, fused=cuda
        )

    def held_out_evidence(self) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """What the likelihood path makes of noisy held-out pictures, and their labels."""
        generator = torch.Generator(self.clean.pictures.device).manual_seed(self.config.seed + 1)
        places, levels = (self.split.held_clean, self.split.held_other), (self.config.lowest, self.config.highest)
        parts = []
        for _ in range(min(16, max(2, _START_VALUES // (512 * self.clean.pictures[0].numel())))):
            *noisy, labels = noised(self.clean, self.other, *places, 256, levels, generator)
            parts.append((*self.member.evidence(*noisy), labels))
        noise, surprises, slots, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return (noise, surprises, slots), labels

    @torch.no_grad()
    def start(self, view: int, trust: float, limit: float) -> None:
        """Let the likelihood path see one view alone, so confident, up to these odds."""
        for network in (self.member, self.average):
            network.trust.bias[: len(views_of(network.space))] = 0.0
            network.trust.bias[view] = trust
            network.log_limit.fill_(math.log(limit))

    def prepare(self, number: int) -> None:
        """Set what a step's number decides: the learning rate, the share of the newest weights in their average."""
        self.rate.fill_(self.config.lr * min(1.0, number / _FIRST_CHECK))
        # Power-function average, 2312.02696.
        self.share.fill_(1.0 - (1.0 - 1.0 / number) ** (1.0 / _AVERAGED))

    def step(self) -> None:
        places = self.split.clean, self.split.other
        loss = _loss(self.member, self.clean, self.other, *places, self.half, self.config, self.generator, self.table)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.member.parameters(), strict=True):
                mean.lerp_(new, self.share)

    @torch.inference_mode()
    def held_out_loss(self) -> float:
        """Mean cross-entropy over held-out pictures, the same noise at every check."""
        generator = torch.Generator(self.clean.pictures.device).manual_seed(self.config.seed + 1)
        places = self.split.held_clean, self.split.held_other
        given = self.average, self.clean, self.other, *places, 512, self.config, generator, self.held_table
        losses = [_loss(*given) for _ in range(4)]
        return float(torch.stack(losses).mean())

    def keep(self) -> None:
        self.best = copy.deepcopy(self.average.state_dict())

    def kept(self) -> QualityClassifier:
        self.average.load_state_dict(self.best)
        return self.average


def _accuracy(member: QualityClassifier, clean: Sample, other: Sample, split: Split, config: FitConfig) -> float:
    """Balanced accuracy at the lowest noise on what was held out."""
    groups = other.groups[split.held_other]
    random = torch.Generator(groups.device).manual_seed(config.seed)
    borrowed = groups[torch.randint(len(groups), (len(split.held_clean),), device=groups.device, generator=random)]
    return balanced_accuracy(
        member,
        clean.pictures[split.held_clean],
        other.pictures[split.held_other],
        config.lowest,
        groups=(borrowed, groups),
        seed=config.seed,
    )


@torch.inference_mode()
def balanced_accuracy(
    classifier: Callable[..., Tensor],
    clean: Tensor,
    other: Tensor,
    sigma: float,
    *,
    groups: tuple[Tensor, Tensor] | None = None,
    margin: float = 0.05,
    seed: int = 0,
) -> float:
    """Mean of the two hit rates at noise level sigma.

    A probability within `margin` of 0.5 counts half: thresholds ask whether p_clean > 0.5 - epsilon, so leaning the
    right way by less than that decides nothing, and a classifier that knows nothing scores 0.5.
    clean, other: (N, C, H, W) uint8, or float32 in the units of the space. groups: what the classifier is told of each.
    """
    generator = torch.Generator(clean.device).manual_seed(seed)
    rates = []
    for pictures, sign, group in zip((clean, other), (1, -1), groups or (None, None), strict=True):
        hits = 0.0
        for part in torch.split(torch.arange(len(pictures), device=clean.device), 1024):
            x0 = unit(pictures[part])
            x = x0 + sigma * torch.randn(x0.shape, device=x0.device, generator=generator)
            told = () if group is None else (group[part],)
            lean = sign * (torch.sigmoid(classifier(x, torch.tensor([sigma]).to(x0).expand(len(x0)), *told)) - 0.5)
            hits += float((lean > margin).sum()) + 0.5 * float((lean.abs() <= margin).sum())
        rates.append(hits / len(pictures))
    return sum(rates) / 2


def _loss(
    classifier: QualityClassifier,
    clean: Sample,
    other: Sample,
    clean_places: Tensor,
    other_places: Tensor,
    half: int,
    config: FitConfig,
    generator: torch.Generator,
    table: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of one balanced batch of these pictures."""
    levels = config.lowest, config.highest
    x, sigma, group, labels = noised(clean, other, clean_places, other_places, half, levels, generator, table)
    return nn.functional.binary_cross_entropy_with_logits(classifier(x, sigma, group), labels)
