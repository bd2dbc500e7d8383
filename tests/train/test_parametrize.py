"""Translations between parametrisations against their definitions, and against the best predictors of Gaussian data."""

from collections.abc import Callable

import pytest
import torch
from ambient.train import parametrize
from ambient.train.parametrize import (
    alpha_bar_of,
    eps_target,
    nearest_timestep,
    sigma_of_alpha_bar,
    sigma_of_time,
    time_of,
    to_flow,
    to_vp,
    v_target,
    velocity_target,
)
from ambient.train.target import ambient_target
from torch import Tensor
from torch.testing import assert_close

SIGMA = torch.logspace(-2, 2, 9, dtype=torch.float64)
ALPHA_BAR = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)  # arXiv 2006.11239, section 4
TARGETS = {"eps": eps_target, "v": v_target, "velocity": velocity_target}


def noise(num: int, seed: int) -> Tensor:
    return torch.randn(num, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)


def test_round_trips_of_the_noise_level() -> None:
    assert_close(sigma_of_alpha_bar(alpha_bar_of(SIGMA)), SIGMA)
    assert_close(sigma_of_time(time_of(SIGMA)), SIGMA)
    assert_close(torch.logit(time_of(SIGMA)), SIGMA.log())


def test_scaled_pictures_are_those_of_vp_and_flow() -> None:
    x0, e = noise(9, 0), noise(9, 1)
    x = x0 + column(SIGMA) * e
    a, t = column(alpha_bar_of(SIGMA)), column(time_of(SIGMA))
    assert_close(to_vp(x, SIGMA), a.sqrt() * x0 + (1 - a).sqrt() * e)
    assert_close(to_flow(x, SIGMA), (1 - t) * x0 + t * e)


def test_targets_are_what_their_papers_define() -> None:
    x0, e = noise(9, 0), noise(9, 1)
    x = x0 + column(SIGMA) * e
    a = column(alpha_bar_of(SIGMA))
    assert_close(eps_target(x, x0, SIGMA), e)
    assert_close(v_target(x, x0, SIGMA), a.sqrt() * e - (1 - a).sqrt() * x0)
    t, step = column(time_of(SIGMA)), 1e-6

    def path(time: Tensor) -> Tensor:
        return (1 - time) * x0 + time * e

    assert_close(velocity_target(x, x0, SIGMA), (path(t + step) - path(t - step)) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TARGETS)
def test_denoisers_survive_the_round_trip(name: str) -> None:
    x, y = noise(9, 0) * column(SIGMA), noise(9, 1)
    back: Callable[[Tensor, Tensor, Tensor], Tensor] = getattr(parametrize, f"denoised_of_{name}")
    assert_close(back(x, TARGETS[name](x, y, SIGMA), SIGMA), y)


@pytest.mark.parametrize("name", TARGETS)
def test_the_optimal_predictor_is_the_optimal_denoiser_translated(name: str) -> None:
    """Of N(0, 0.25) the posterior means are E[x_0 | x] = 0.25 x / (0.25 + sigma^2), E[e | x] = sigma x / (...)."""
    x = noise(9, 0) * column(SIGMA)
    variance = 0.25 + column(SIGMA) ** 2
    mean_x0, mean_e = 0.25 / variance * x, column(SIGMA) / variance * x
    root = torch.sqrt(1 + column(SIGMA) ** 2)
    expected = {"eps": mean_e, "v": mean_e / root - column(SIGMA) / root * mean_x0, "velocity": mean_e - mean_x0}
    assert_close(TARGETS[name](x, mean_x0, SIGMA), expected[name])


@pytest.mark.parametrize("name", TARGETS)
def test_the_ambient_target_leads_to_the_same_predictor(name: str) -> None:
    """Regressed on x_t, the translated ambient target has the slope of the optimal predictor, given fresh z."""
    num, s, sigma = 20_000, 0.8, 1.0
    level, floor = torch.full((num,), sigma).double(), torch.full((num,), s).double()
    x, y = ambient_target(0.5 * noise(num, 0), noise(num, 1), level, floor, noise(num, 2))
    target = TARGETS[name](x, y, level)
    slope = float((x * target).mean() / x.square().mean())
    unit = torch.ones(1, 1, dtype=torch.float64)
    optimum = TARGETS[name](unit, unit * 0.25 / (0.25 + sigma**2), torch.tensor([sigma]).double())
    assert slope == pytest.approx(float(optimum), abs=0.01)


def test_timesteps_of_a_schedule() -> None:
    levels = sigma_of_alpha_bar(ALPHA_BAR)
    assert (levels.diff() > 0).all()
    assert torch.equal(nearest_timestep(levels, levels), torch.arange(1000))
    assert torch.equal(nearest_timestep(levels.float(), levels.float()), torch.arange(1000))
    sigma = torch.exp(torch.linspace(-6, 7, 5001, dtype=torch.float64))
    brute = (sigma.log()[:, None] - levels.log()[None]).abs().argmin(dim=1)
    assert torch.equal(nearest_timestep(sigma, levels), brute)
