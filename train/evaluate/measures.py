"""Every measure of one set of samples, each with its chance error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import neighbours
from .chance import bootstrap_error, interval, mean_error, share_error, share_interval
from .distances import frechet_distance, kernel_distance, moments
from .diversity import vendi
from .reference import MOST_IN_PAIRS, Reference

MEANING = {
    "frechet": "Frechet distance of features, lower is better",
    "kernel": "kernel distance (KID), lower is better; unbiased, so it may be below 0",
    "precision": "share of samples that look like a reference picture",
    "recall": "share of reference pictures that look like a sample",
    "density": "how thickly reference pictures lie around samples; 1 for the reference itself",
    "coverage": "share of reference pictures with a sample nearby",
    "vendi": "effective number of different samples",
    "memorised_clean": "share of samples that are copies of clean training pictures, whatever an arm was trained on",
    "memorised": "share of samples that are copies of training pictures; if those are unknown, of the reference",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A value with its standard error: the chance of which samples were drawn, the reference and the model held.

    Of recall and coverage, which are shares of the reference, that of which reference pictures were drawn, the samples
    held; of the kernel distance that of both.
    within: 90 % interval where it is not the normal distribution's.
    """

    value: float
    error: float
    within: tuple[float, float] | None = None

    def to_json(self) -> dict[str, float]:
        low, high = self.within or interval(self.value, self.error)
        return {"value": self.value, "error": self.error, "low": low, "high": high}


def measure(samples: Tensor, reference: Reference, *, seed: int) -> dict[str, Measured]:
    """Measures of samples (N, D) against a reference, by name.

    Those by pairs take MOST_IN_PAIRS samples at random, and precision, recall, density and coverage, which depend on
    both numbers, as many pictures of the reference as samples. seed: of that choice and of the bootstrap.
    """
    x = _some(samples, seed)
    y = reference.features.to(x.device)
    num = min(len(x), len(y))
    a, b = x[:num], y[:num]
    value, error = kernel_distance(x, y)
    thick = neighbours.density(a, b)
    return {
        "frechet": measure_frechet(samples, reference, seed=seed),
        "kernel": Measured(value=value, error=error),
        "precision": share(neighbours.precision(a, b)),
        "recall": share(neighbours.precision(b, a)),
        "density": Measured(value=float(thick.mean()), error=mean_error(thick)),
        "coverage": share(neighbours.coverage(a, b)),
        "vendi": Measured(value=vendi(a), error=bootstrap_error(a, vendi, seed=seed)),
    }


def measure_frechet(samples: Tensor, reference: Reference, *, seed: int) -> Measured:
    """The Frechet distance alone."""

    def distance(x: Tensor) -> float:
        return frechet_distance(moments(x), reference.moments)

    return Measured(value=distance(samples), error=bootstrap_error(samples, distance, seed=seed))


def measure_copies(
    pixels: Tensor, trained_on: Tensor, device: torch.device, *, seed: int = 0, mirrored: bool = False
) -> Measured:
    """Share of samples (N, C, R, R) uint8 that are copies of training pictures (M, C, R, R) uint8.

    seed: of which MOST_IN_PAIRS samples are looked at. mirrored: training showed them mirrored, too, untold.
    """
    x = _some(pixels, seed).flatten(1).to(device)
    forms = [trained_on, trained_on.flip(3)] if mirrored else [trained_on]
    return share(neighbours.copied(x, *(form.flatten(1) for form in forms)))


def share(values: Tensor) -> Measured:
    """The mean of a value per picture that is 0 or 1."""
    mean = float(values.double().mean())
    return Measured(value=mean, error=share_error(values), within=share_interval(values))


def _some(rows: Tensor, seed: int) -> Tensor:
    """At most MOST_IN_PAIRS rows in random order: samples often lie in the order of their classes."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows))[:MOST_IN_PAIRS])
    return rows[order.to(rows.device)]


def to_json(measured: dict[str, Measured]) -> dict[str, Any]:
    return {name: value.to_json() for name, value in measured.items()}
