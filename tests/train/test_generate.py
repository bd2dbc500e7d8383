"""Heun's method against the closed-form solution for Gaussian data, and what ``generate`` writes."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.generate import generate, heun, initial_noise, save_grid, sigma_steps
from ambient.train.loop import train
from ambient.train.networks.unet import UNetConfig
from PIL import Image
from small_pool import write_pool
from torch import Tensor
from torch.testing import assert_close

SIGMA_DATA = 0.5


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The optimal denoiser of N(0.3, SIGMA_DATA^2)."""
    return 0.3 + (x - 0.3) * SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2)


def exact(x: Tensor, start: float) -> Tensor:
    """The flow keeps (x - mean) / sqrt(sigma_data^2 + sigma^2)."""
    return 0.3 + (x - 0.3) * SIGMA_DATA / (SIGMA_DATA**2 + start**2) ** 0.5


def error(num: int) -> float:
    x = 80 * torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return float((heun(gaussian, x, sigma_steps(num)) - exact(x, 80.0)).abs().max())


def test_heun_converges_with_order_two() -> None:
    errors = [error(num) for num in (32, 64, 128, 256)]
    ratios = [a / b for a, b in pairwise(errors)]
    assert all(3.3 < ratio < 4.8 for ratio in ratios), ratios
    assert errors[-1] < 1e-3


def test_heun_costs_two_evaluations_a_step_but_the_last() -> None:
    calls = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return gaussian(x, sigma)

    heun(counted, torch.randn(1, 1, 4, 4), sigma_steps(18))
    assert len(calls) == 35
    assert min(calls) == pytest.approx(0.002)


def test_levels_fall_from_80_to_0() -> None:
    levels = sigma_steps(18)
    assert len(levels) == 19
    assert levels[0] == pytest.approx(80)
    assert levels[-2] == pytest.approx(0.002)
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
    steps = (levels[:-1] ** (1 / 7)).diff()
    assert_close(steps, torch.full_like(steps, (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17))


def test_initial_noise_depends_on_the_seed_only() -> None:
    space = Space(resolution=8)
    noise = initial_noise(torch.arange(10), space, 80.0)
    assert torch.equal(initial_noise(torch.tensor([7, 3]), space, 80.0), noise[[7, 3]])
    assert float(noise.std()) == pytest.approx(80, rel=0.05)


def test_grid_puts_pictures_row_by_row(tmp_path: Path) -> None:
    pictures = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    save_grid(tmp_path / "grid.png", pictures)
    with Image.open(tmp_path / "grid.png") as image:
        found = np.asarray(image)
    assert found.shape == (6, 4, 3)
    assert found[::2, ::2, 0].tolist() == [[1, 2], [3, 4], [5, 0]]
    save_grid(tmp_path / "row.png", pictures, columns=5, zoom=2)
    with Image.open(tmp_path / "row.png") as image:
        found = np.asarray(image)
    assert found.shape == (4, 20, 3)
    assert found[0, ::4, 0].tolist() == [1, 2, 3, 4, 5]


def test_generate_writes_the_same_pictures_for_any_batch(tmp_path: Path) -> None:
    config = TrainConfig(
        num_images=16, batch_size=8, sample_count=2, network=UNetConfig(channels=8, multipliers=(1,), blocks=1)
    )
    run = train(write_pool(tmp_path), tmp_path / "run", config, device="cpu").parents[1]
    told: list[tuple[int, int]] = []
    assert generate(run, tmp_path / "a", num=5, steps=4, device="cpu") == tmp_path / "a" / "grid.png"
    generate(run, tmp_path / "b", num=3, seed=2, steps=4, batch_size=2, device="cpu", report=lambda *p: told.append(p))
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [*(f"{i:06d}.png" for i in range(5)), "grid.png"]
    assert told == [(2, 3), (3, 3)]
    for i in (2, 3, 4):
        with Image.open(tmp_path / f"a/{i:06d}.png") as a, Image.open(tmp_path / f"b/{i:06d}.png") as b:
            assert a.size == (8, 8)
            assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1
    with pytest.raises(UserError, match="at least 1"):
        generate(run, tmp_path / "c", num=0)


def test_generate_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        generate(tmp_path, tmp_path / "out")
