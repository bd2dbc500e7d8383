"""Classifiers as ``ambient annotate`` makes them, what they find, and how two findings are compared."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ambient.curate.calibrate import calibrate
from ambient.curate.classifier import ClassifierConfig
from ambient.curate.crossfit import CrossFitted
from ambient.curate.curves import Curves, search
from ambient.curate.fit import FitConfig, cross_fit
from ambient.curate.noisy import Sample
from ambient.curate.spread import fold_spread
from ambient.curate.threshold import decide, draw_noise, sigma_grid
from ambient.curate.units import to_unit
from ambient.schemas.manifest import Crossing
from ambient.schemas.space import Space
from torch import Tensor

EPSILON = 0.05
TAU = 0.5 - EPSILON
GRID = sigma_grid()

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A pool's classifiers, as ``ambient annotate`` makes them, and what was said of them."""

    classifier: CrossFitted
    spread: Array
    steps: int
    accuracy: float
    held_out_loss: float
    seconds: float

    def facts(self) -> dict[str, Any]:
        names = ("steps", "accuracy", "held_out_loss", "seconds")
        return {"spread": self.spread.round(4).tolist(), **{name: round(getattr(self, name), 4) for name in names}}


def judge(clean: Sample, other: Sample, config: FitConfig, network: ClassifierConfig) -> Judge:
    space = Space(resolution=clean.pictures.shape[-1], channels=clean.pictures.shape[1])
    start = time.perf_counter()
    fit = cross_fit(clean, other, space=space, config=config, network=network)
    calibrate(fit, clean, other, config)
    spread = fold_spread(fit, other, config.seed)
    return Judge(
        classifier=CrossFitted(fit.members, seed=config.seed, groups=("",) * network.groups).eval(),
        spread=spread,
        steps=fit.steps,
        accuracy=fit.accuracy,
        held_out_loss=fit.held_out_loss,
        seconds=time.perf_counter() - start,
    )


def by_fold(classifier: CrossFitted, names: Tensor) -> Iterator[tuple[Callable[..., Tensor], Tensor]]:
    """Each member, and the pictures that it has not seen."""
    folds = classifier.folds(names)
    for fold, member in enumerate(classifier.members):
        yield member, (folds == fold).nonzero()[:, 0]


def annotated(judge: Judge, sample: Sample, draws: int, seed: int, how: Crossing = "rising") -> Curves:
    """Curves as ``ambient annotate`` measures them. how: which crossing it looks for."""
    x = as_unit(sample.pictures)
    out = {name: np.zeros((len(x), len(GRID))) for name in ("mean", "variance", "count")}
    for member, mine in by_fold(judge.classifier, sample.names):
        groups = sample.groups[mine]
        names = sample.names[mine]
        found = search(member, x[mine], names, GRID, groups=groups, draws=draws, tau=TAU, how=how, seed=seed)
        for name, values in out.items():
            values[mine.cpu().numpy()] = getattr(found, name)
    return Curves(**out)


def as_unit(pictures: Tensor) -> Tensor:
    return to_unit(pictures) if pictures.dtype == torch.uint8 else pictures


def decided(curves: Curves, spread: Array | float, how: Crossing = "rising") -> tuple[Array, Array, Array]:
    noise = draw_noise(curves.mean, curves.variance, curves.count)
    return decide(curves.mean, curves.count, GRID, EPSILON, noise=noise, spread=spread, how=how)


def few(sample: Sample, num: int) -> Sample:
    """Every so many-th picture, so that each kind keeps its share."""
    at = torch.linspace(0, len(sample.names) - 1, min(num, len(sample.names))).long().to(sample.names.device)
    return Sample(pictures=sample.pictures[at], names=sample.names[at], groups=sample.groups[at])


def clipped(sigma: Array) -> Array:
    """0 and inf brought to the ends of the grid."""
    return np.clip(sigma, GRID[0], GRID[-1])


def median_ln_ratio(a: Array, b: Array) -> float:
    return float(np.median(np.abs(np.log(clipped(a) / clipped(b)))))


def spearman(a: Array, b: Array) -> float:
    """Rank correlation; ties share their mean rank."""
    ranks = []
    for values in (clipped(a), clipped(b)):
        _, group, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[group])
    found = float(np.corrcoef(*ranks)[0, 1])
    return 0.0 if math.isnan(found) else found
