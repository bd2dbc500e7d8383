"""The ambient target: its mean and variance, the paper's form of the loss, and the minimiser shared with w_0."""

import math

import pytest
import torch
from ambient.curate.noise import names_of
from ambient.schemas.usable import BETA, BUFFER
from ambient.train.target import (
    ambient_target,
    fixed_noise,
    fresh_noise,
    loss_floor,
    loss_weight,
    noise_floor,
    plain_target,
    weighted_loss,
)
from torch.testing import assert_close

SHAPE = (3, 4, 4)


def noise(num: int, seed: int) -> torch.Tensor:
    return torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("s", "sigma"), [(0.5, 0.6), (1.0, 2.0), (0.2, 0.2 * BETA * 1.0001), (2.0, 40.0)])
def test_mean_and_variance_given_noisy_and_clean_picture(s: float, sigma: float) -> None:
    """y regressed on x_t - w_0: slope and intercept 0, residual variance s^2 / alpha <= b s^2."""
    num = 20_000
    w0 = noise(1, 0).expand(num, -1, -1, -1)
    level, floor = torch.full((num,), sigma).double(), torch.full((num,), s).double()
    x_t, y = ambient_target(w0, noise(num, 1), level, floor, noise(num, 2))
    a, b = (x_t - w0).flatten(), (y - w0).flatten()
    variance = s**2 * sigma**2 / (sigma**2 - s**2)
    slack = 5 * math.sqrt(variance / len(a))
    assert abs(float(b.mean())) < slack
    assert abs(float((a * b).mean() / (a * a).mean())) < slack / sigma
    assert_close(float(b.var()), variance, rtol=0.01, atol=0)
    assert float(b.var()) < 1.01 * BUFFER * s**2
    assert_close(float(a.var()), sigma**2, rtol=0.01, atol=0)


def test_variance_reaches_the_buffer_at_the_edge() -> None:
    s = torch.tensor([0.7], dtype=torch.float64)
    assert_close(loss_floor(BETA * s, s, 0.5) / loss_weight(BETA * s, 0.5), BUFFER * s**2)


def test_equals_the_papers_loss() -> None:
    num = 50
    w0, z, e, denoised = (noise(num, seed) for seed in range(4))
    s = torch.linspace(0.0, 2.0, num, dtype=torch.float64)
    sigma = (s * BETA + 0.1).clamp(max=80)
    x_t, y = ambient_target(w0, z, sigma, s, e)
    alpha = ((sigma**2 - s**2) / sigma**2).view(-1, 1, 1, 1)
    x_n = w0 + s.view(-1, 1, 1, 1) * z
    paper = (alpha**-2 * (alpha * denoised + (1 - alpha) * x_t - x_n) ** 2).flatten(1).mean(1) * loss_weight(sigma, 0.5)
    assert_close(weighted_loss(denoised, y, sigma, 0.5), paper)


def test_without_noise_floor_the_target_is_the_picture_bit_for_bit() -> None:
    w0, z, e = (noise(8, seed).float() for seed in range(3))
    sigma = torch.logspace(-2, 1.9, 8)
    x_t, y = ambient_target(w0, z, sigma, torch.zeros(8), e)
    assert torch.equal(y, w0)
    assert_close(x_t, w0 + sigma.view(-1, 1, 1, 1) * e)


def test_plain_target_sees_the_same_noisy_picture() -> None:
    w0, z, e = (noise(8, seed) for seed in range(3))
    sigma, s = torch.full((8,), 2.0).double(), torch.full((8,), 1.0).double()
    assert torch.equal(plain_target(w0, z, sigma, s, e)[0], ambient_target(w0, z, sigma, s, e)[0])
    assert torch.equal(plain_target(w0, z, sigma, s, e)[1], w0)


def test_minimisers_on_a_gaussian() -> None:
    """The best linear denoiser of N(0, 0.25): 0.25 / (0.25 + sigma^2) for both targets, another for target x_n."""
    num, s, sigma = 20_000, 0.8, 1.0
    w0 = 0.5 * noise(num, 0)
    level, floor = torch.full((num,), sigma).double(), torch.full((num,), s).double()
    z, e = noise(num, 1), noise(num, 2)
    x_t, y = ambient_target(w0, z, level, floor, e)

    def gain(target: torch.Tensor) -> float:
        return float((x_t * target).mean() / x_t.square().mean())

    optimum = 0.25 / (0.25 + sigma**2)
    assert gain(w0) == pytest.approx(optimum, abs=0.01)
    assert gain(y) == pytest.approx(optimum, abs=0.01)
    assert gain(w0 + s * z) == pytest.approx((0.25 + s**2) / (0.25 + sigma**2), abs=0.01)
    assert (0.25 + s**2) / (0.25 + sigma**2) > optimum + 0.4


def test_noise_floor_is_zero_where_the_picture_itself_is_trusted() -> None:
    sigma = torch.tensor([0.1, 3.0, 0.5, 1.0, 0.5])
    sigma_min = torch.tensor([2.0, 2.0, 0.0, 0.5, math.inf])
    sigma_max = torch.tensor([0.2, 0.2, 0.0, 1.5, math.inf])
    assert noise_floor(sigma, sigma_min, sigma_max).tolist() == [0.0, 2.0, 0.0, 0.0, 0.0]


def test_loss_of_the_optimal_denoiser_is_plain_loss_plus_floor() -> None:
    num, s, sigma = 20_000, 1.0, 1.5
    w0 = 0.5 * noise(num, 0)
    level, floor = torch.full((num,), sigma).double(), torch.full((num,), s).double()
    x_t, y = ambient_target(w0, noise(num, 1), level, floor, noise(num, 2))
    denoised = 0.25 / (0.25 + sigma**2) * x_t
    ambient, plain = weighted_loss(denoised, y, level, 0.5).mean(), weighted_loss(denoised, w0, level, 0.5).mean()
    assert_close(ambient - loss_floor(level, floor, 0.5).mean(), plain, rtol=0.03, atol=0)


def test_noise_is_the_same_in_any_batch_and_order() -> None:
    names = names_of([f"{i:032x}"[::-1] for i in range(10)])
    z = fixed_noise(names, SHAPE, seed=3)
    order = torch.tensor([7, 2, 2, 9, 0])
    assert torch.equal(fixed_noise(names[order], SHAPE, seed=3), z[order])
    assert not torch.equal(fixed_noise(names, SHAPE, seed=4), z)
    indices = torch.arange(1000, 1010)
    e = fresh_noise(indices, SHAPE, seed=3)
    assert torch.equal(torch.cat([fresh_noise(i[None], SHAPE, seed=3) for i in indices]), e)
    assert abs(float(torch.corrcoef(torch.stack([z.flatten(), e.flatten()]))[0, 1])) < 0.2


def test_fixed_and_fresh_noise_of_one_name_are_different_streams() -> None:
    names = torch.arange(4)
    assert not torch.equal(fixed_noise(names, SHAPE, seed=0), fresh_noise(names, SHAPE, seed=0))
