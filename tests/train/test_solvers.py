"""Solvers against closed forms: for Gaussian data the probability flow is linear in every Fourier coefficient."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from ambient.train.solvers import SOLVERS, heun, sigma_steps
from fields import Fields
from torch import Tensor
from torch.testing import assert_close

FIELDS = Fields(resolution=8)
START, END = 20.0, 0.05


def wiener(x: Tensor, sigma: Tensor) -> Tensor:
    """The optimal denoiser of the fields, in float64: P / (P + sigma^2) in every coefficient."""
    gain = FIELDS.power() / (FIELDS.power() + sigma**2)
    return torch.fft.ifft2(torch.fft.fft2(x) * gain).real


def exact(x: Tensor, end: float) -> Tensor:
    """The flow keeps X_k / sqrt(P_k + sigma^2)."""
    gain = torch.sqrt((FIELDS.power() + end**2) / (FIELDS.power() + START**2))
    return torch.fft.ifft2(torch.fft.fft2(x) * gain).real


def error(name: str, num: int, end: float) -> float:
    """Largest error of any coefficient, relative to its exact value, from START to end in num levels."""
    x = START * torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas = sigma_steps(num, low=end or 0.002, high=START)
    solved = SOLVERS[name](wiener, x, sigmas if end == 0 else sigmas[:-1])
    ratio = torch.fft.fft2(solved) / torch.fft.fft2(exact(x, end))
    return float((ratio - 1).abs().max())


@pytest.mark.parametrize(("name", "low", "high"), [("heun", 3.6, 4.4), ("euler", 1.9, 2.1)])
def test_order_of_convergence(name: str, low: float, high: float) -> None:
    """Twice the steps: a quarter of the error for a method of second order, half for one of first."""
    errors = [error(name, num, END) for num in (129, 257, 513)]
    assert all(low < a / b < high for a, b in pairwise(errors)), errors


def test_down_to_zero_heun_is_of_second_order_or_better() -> None:
    errors = [error("heun", num, 0.0) for num in (64, 128, 256)]
    assert all(a / b > 3.3 for a, b in pairwise(errors)), errors
    assert error("heun", 18, 0.0) < 0.1 < error("euler", 18, 0.0)


def counting(calls: list[float]) -> Callable[[Tensor, Tensor], Tensor]:
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return wiener(x, sigma)

    return denoise


@pytest.mark.parametrize(("name", "evaluations"), [("heun", 35), ("euler", 18)])
def test_evaluations_of_eighteen_steps(name: str, evaluations: int) -> None:
    calls: list[float] = []
    SOLVERS[name](counting(calls), torch.randn(1, 1, 8, 8), sigma_steps(18))
    assert len(calls) == evaluations
    assert min(calls) == pytest.approx(0.002)


def test_one_step_returns_the_denoised_noise() -> None:
    x = 80 * torch.randn(2, 1, 8, 8, dtype=torch.float64)
    for solver in SOLVERS.values():
        assert_close(solver(wiener, x, sigma_steps(1)), wiener(x, torch.tensor(80.0)))


def test_levels_fall_from_80_to_0() -> None:
    levels = sigma_steps(18)
    assert len(levels) == 19
    assert levels[0] == pytest.approx(80)
    assert levels[-2] == pytest.approx(0.002)
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
    steps = (levels[:-1] ** (1 / 7)).diff()
    assert_close(steps, torch.full_like(steps, (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17))


def test_the_dtype_is_that_of_x() -> None:
    assert heun(lambda x, _: 0 * x, torch.ones(1, 1, 2, 2), sigma_steps(4).float()).dtype == torch.float32
