"""Guidance against closed forms: of two Gaussians, the score and the whole guided flow are known."""

import pytest
import torch
from ambient.train.guidance import guided
from ambient.train.solvers import Denoise, heun, sigma_steps
from torch import Tensor
from torch.testing import assert_close


def gaussian(mean: float, std: float) -> Denoise:
    """The optimal denoiser of N(mean, std^2)."""
    return lambda x, sigma: mean + (x - mean) * std**2 / (std**2 + sigma**2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_the_score_is_that_of_main_to_the_g_over_guide_to_the_g_minus_1(scale: float) -> None:
    """(D - x) / sigma^2 is the gradient of G ln p_main + (1 - G) ln p_guide (arXiv 2406.02507, section 2)."""
    (m1, s1), (m0, s0) = (0.4, 0.3), (-0.2, 0.7)
    denoise = guided(gaussian(m1, s1), gaussian(m0, s0), scale)
    x = torch.linspace(-3, 3, 25, dtype=torch.float64).requires_grad_()
    for sigma in (0.05, 0.6, 5.0):
        main, guide = (-0.5 * (x - m) ** 2 / (s**2 + sigma**2) for m, s in ((m1, s1), (m0, s0)))
        log_density = scale * main + (1 - scale) * guide
        (score,) = torch.autograd.grad(log_density.sum(), x)
        level = torch.tensor(sigma, dtype=torch.float64)
        assert_close((denoise(x, level) - x) / sigma**2, score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
def test_the_guided_flow_of_two_centred_gaussians(scale: float) -> None:
    """d ln x / d sigma = G sigma / (s1^2 + sigma^2) + (1 - G) sigma / (s0^2 + sigma^2), solved by hand."""
    s1, s0, start, end = 0.5, 0.8, 20.0, 0.01
    x = torch.tensor([-30.0, -1.0, 4.0, 25.0], dtype=torch.float64)
    sigmas = sigma_steps(600, low=end, high=start)[:-1]

    def shrink(s: float) -> float:
        return ((s**2 + end**2) / (s**2 + start**2)) ** 0.5

    expected = x * shrink(s1) ** scale * shrink(s0) ** (1 - scale)
    assert_close(heun(guided(gaussian(0, s1), gaussian(0, s0), scale), x, sigmas), expected, rtol=1e-3, atol=0)


def test_strength_one_never_asks_the_guide() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError

    x = torch.randn(3)
    assert torch.equal(guided(gaussian(0, 1), broken, 1.0)(x, torch.tensor(1.0)), 0.5 * x)
