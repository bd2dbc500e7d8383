"""Solvers of the sampling equation, from noise to data: flat functions of one signature, in ``SOLVERS`` by name."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

SIGMA_LOW, SIGMA_HIGH, RHO = 0.002, 80.0, 7.0

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, H, W), sigma ()) -> estimate of x_0, shaped as x."""


def sigma_steps(num: int, *, low: float = SIGMA_LOW, high: float = SIGMA_HIGH, rho: float = RHO) -> Tensor:
    """Noise levels from high to low, then 0 (arXiv 2206.00364, eq. 5). Returns (num + 1,) float64."""
    ramp = torch.linspace(0, 1, num, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


@torch.no_grad()
def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method, of second order (arXiv 2206.00364, algorithm 1 without churn).

    x: (N, C, H, W) at level sigmas[0]. sigmas: (K + 1,) descending; a last level of 0 gets an Euler step, so K steps to
    0 cost 2 K - 1 evaluations. Returns x at the last level, in x's dtype.
    """
    for now, then in pairwise(sigmas):
        slope = _slope(denoise, x, now)
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + _slope(denoise, ahead, then)) / 2
            ahead = x + (then - now) * slope
        x = ahead
    return x


@torch.no_grad()
def euler(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Euler's method, of first order, one evaluation a step: DDIM (arXiv 2010.02502). Arguments as ``heun``."""
    for now, then in pairwise(sigmas):
        x = x + (then - now) * _slope(denoise, x, now)
    return x


SOLVERS = {"heun": heun, "euler": euler}


def _slope(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """dx / dsigma of the probability flow: (x - D(x, sigma)) / sigma (arXiv 2206.00364, eq. 3 with sigma(t) = t)."""
    return (x - denoise(x, sigma)) / sigma
