"""The small parts of a step: the stream of batches, the average of the weights, the statistics of the loss."""

import math
from pathlib import Path

import pytest
import torch
from ambient.curate.noise import names_of
from ambient.schemas.usable import BETA, usable
from ambient.train import ema
from ambient.train.batches import batches, conditions
from ambient.train.config import TrainConfig
from ambient.train.data import read_rows
from ambient.train.loop import build_sampler
from ambient.train.monitor import Monitor, NotFinite
from small_pool import write_pool
from torch.testing import assert_close

CPU = torch.device("cpu")


def test_batches_from_the_middle_are_those_of_the_whole_stream(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path, labels=[0, 1, None] * 4))
    config = TrainConfig(num_images=40_000, batch_size=96, num_classes=2)
    sampler, classes = build_sampler(rows, config), conditions(rows, 2)
    whole = list(batches(rows, sampler, classes, config, start=0, device=CPU))
    assert len(whole) == config.num_steps
    assert torch.equal(torch.cat([b.indices for b in whole]), torch.arange(config.num_steps * 96))
    for batch, later in zip(
        whole[200:], batches(rows, sampler, classes, config, start=200 * 96, device=CPU), strict=True
    ):
        for name in ("indices", "rows", "names", "sigma", "s", "condition"):
            assert torch.equal(getattr(batch, name), getattr(later, name)), name


def test_what_travels_with_a_row_is_its_own(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path, labels=[0, 1, None] * 4, sigma_max=[0.2] * 12))
    config = TrainConfig(num_images=500, batch_size=500, num_classes=2)
    (batch,) = batches(rows, build_sampler(rows, config), conditions(rows, 2), config, start=0, device=CPU)
    assert usable(batch.sigma.double(), rows.sigma_min[batch.rows].double(), rows.sigma_max[batch.rows].double()).all()
    assert torch.equal(batch.names, names_of(rows.ids)[batch.rows])
    trusted = (rows.sigma_min[batch.rows] == 0) | (batch.sigma < 0.2)
    assert torch.equal(batch.s, torch.where(trusted, 0.0, 0.5))
    assert bool((batch.sigma[~trusted] > BETA * 0.5).all())
    assert batch.condition is not None
    assert torch.equal(batch.condition, torch.tensor([0, 1, 2])[batch.rows % 3])


def test_average_halves_its_memory_in_a_half_life() -> None:
    average, weight = torch.ones(3), torch.zeros(3)
    for step in range(100):
        ema.update([average], [weight], ema.decay(10**6 + step * 10, 10, 1000.0))
    assert_close(average, torch.full((3,), 0.5))


def test_average_follows_closely_at_first() -> None:
    assert ema.decay(10, 10, 1e9) < 1e-5
    assert ema.decay(10_000, 10, 1e9) == pytest.approx(0.5 ** (10 / 500))


def test_monitor_means_by_band() -> None:
    monitor = Monitor(4, CPU)
    sigma = torch.tensor([0.05, 0.2, 0.25, 5.0])
    monitor.add(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.0, 1.0, 1.0, 0.0]), sigma, 0)
    monitor.add(torch.tensor([3.0, 2.0, 4.0, 8.0]), torch.zeros(4), sigma, 4)
    losses = monitor.read()
    assert losses.loss == pytest.approx((15 + 17 - 2) / 8)
    assert losses.floor == pytest.approx(2 / 8)
    assert losses.by_sigma == pytest.approx({"0-0.1": 2.0, "0.1-0.3": 2.5, "3-inf": 8.0})
    monitor.add(torch.ones(4), torch.zeros(4), sigma, 8)
    assert monitor.read().loss == 1.0


def test_monitor_remembers_the_first_batch_that_was_not_finite() -> None:
    monitor = Monitor(3, CPU)
    for num_images, loss in ((0, 1.0), (3, math.nan), (6, math.inf)):
        monitor.add(torch.tensor([1.0, loss, 1.0]), torch.zeros(3), torch.ones(3), num_images)
    monitor.add(torch.full((3,), math.nan), torch.zeros(3), torch.ones(3), 9)
    with pytest.raises(NotFinite) as caught:
        monitor.read()
    assert caught.value.num_images == 3
    assert caught.value.bad.tolist() == [False, True, False]
