"""The small parts of a step: the stream of batches, the average of the weights, the statistics of the loss."""

import math
from pathlib import Path

import pytest
import torch
from ambient.curate.noise import names_of
from ambient.schemas.usable import BETA, usable
from ambient.train.batches import Use, batches, conditions
from ambient.train.config import TrainConfig
from ambient.train.loop import build_sampler
from ambient.train.monitor import Monitor, NotFinite
from ambient.train.rows import read_rows
from ambient.train.world import World
from small_pool import write_pool

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)


def test_batches_from_the_middle_are_those_of_the_whole_stream(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path, labels=[0, 1, None] * 4))
    config = TrainConfig(num_images=40_000, batch_size=96, num_classes=2)
    sampler, classes = build_sampler(rows, config), conditions(rows, 2)
    whole = list(batches(rows, sampler, classes, config, start=0, world=ALONE, pictures_on=CPU))
    assert len(whole) == config.num_steps
    assert torch.equal(torch.cat([b.indices for b in whole]), torch.arange(config.num_steps * 96))
    for batch, later in zip(
        whole[200:], batches(rows, sampler, classes, config, start=200 * 96, world=ALONE, pictures_on=CPU), strict=True
    ):
        for name in ("indices", "rows", "names", "sigma", "s", "use", "condition"):
            assert torch.equal(getattr(batch, name), getattr(later, name)), name


def test_what_travels_with_a_row_is_its_own(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path, labels=[0, 1, None] * 4, sigma_max=[0.2] * 12))
    config = TrainConfig(num_images=500, batch_size=500, num_classes=2)
    (batch,) = batches(
        rows, build_sampler(rows, config), conditions(rows, 2), config, start=0, world=ALONE, pictures_on=CPU
    )
    assert usable(batch.sigma.double(), rows.sigma_min[batch.rows].double(), rows.sigma_max[batch.rows].double()).all()
    assert torch.equal(batch.names, names_of(rows.ids)[batch.rows])
    trusted = (rows.sigma_min[batch.rows] == 0) | (batch.sigma < 0.2)
    assert torch.equal(batch.s, torch.where(trusted, 0.0, 0.5))
    assert bool((batch.sigma[~trusted] > BETA * 0.5).all())
    assert torch.equal(
        batch.use, torch.where(rows.sigma_min[batch.rows] == 0, Use.CLEAN, torch.where(trusted, Use.LOW, Use.HIGH))
    )
    assert batch.condition is not None
    assert torch.equal(batch.condition, torch.tensor([0, 1, 2])[batch.rows % 3])


def test_ranks_share_every_batch_without_meeting(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path))
    config = TrainConfig(num_images=480, batch_size=48)
    sampler = build_sampler(rows, config)
    worlds = [ALONE, *(World(rank=rank, size=3, device=CPU) for rank in range(3))]
    alone, *shared = (
        list(batches(rows, sampler, None, config, start=96, world=world, pictures_on=CPU)) for world in worlds
    )
    for whole, *parts in zip(alone, *shared, strict=True):
        for name in ("indices", "rows", "sigma", "s"):
            together = torch.stack([getattr(part, name) for part in parts], dim=1).flatten()
            assert torch.equal(together, getattr(whole, name)), name


def test_hidden_labels_are_a_share_and_the_same_again(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path, labels=[0, 1] * 6))
    config = TrainConfig(num_images=4000, batch_size=4000, num_classes=2, label_dropout=0.2)
    first, again = (
        next(
            batches(
                rows, build_sampler(rows, config), conditions(rows, 2), config, start=0, world=ALONE, pictures_on=CPU
            )
        ).condition
        for _ in range(2)
    )
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert float((first == 2).float().mean()) == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 4000))


def test_parts_of_a_batch_make_it_up(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path))
    config = TrainConfig(num_images=20, batch_size=20)
    (batch,) = batches(rows, build_sampler(rows, config), None, config, start=0, world=ALONE, pictures_on=CPU)
    parts = list(batch.parts(8))
    assert [len(part.indices) for _, part in parts] == [8, 8, 4]
    assert torch.equal(torch.cat([part.sigma for _, part in parts]), batch.sigma)
    assert torch.equal(torch.cat([torch.arange(20)[where] for where, _ in parts]), torch.arange(20))


def test_monitor_means_by_band_and_use() -> None:
    monitor = Monitor(4, ALONE)
    sigma, use = torch.tensor([0.05, 0.2, 0.25, 5.0]), torch.tensor([Use.LOW, Use.CLEAN, Use.HIGH, Use.HIGH])
    monitor.add(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0.0, 1.0, 1.0, 0.0]), sigma, use, 0, 0)
    for start in (0, 2):
        part = slice(start, start + 2)
        losses = torch.tensor([3.0, 2.0, 4.0, 8.0])
        monitor.add(losses[part], torch.zeros(2), sigma[part], use[part], start, 4)
    losses = monitor.read()
    assert losses.loss == pytest.approx((15 + 17 - 2) / 8)
    assert losses.floor == pytest.approx(2 / 8)
    assert losses.by_sigma == pytest.approx({"0-0.1": 2.0, "0.1-0.3": 2.5, "3-inf": 8.0})
    assert losses.by_use == {"clean": {"0.1-0.3": 1.5}, "high": {"0.1-0.3": 3.5, "3-inf": 8.0}, "low": {"0-0.1": 2.0}}
    monitor.add(torch.ones(4), torch.zeros(4), sigma, use, 0, 8)
    assert monitor.read().loss == 1.0


def test_monitor_remembers_the_first_batch_that_was_not_finite() -> None:
    monitor = Monitor(3, ALONE)
    clean = torch.zeros(3, dtype=torch.int64)
    for num_images, loss in ((0, 1.0), (3, math.nan), (6, math.inf)):
        monitor.add(torch.tensor([1.0, loss, 1.0]), torch.zeros(3), torch.ones(3), clean, 0, num_images)
    monitor.add(torch.full((3,), math.nan), torch.zeros(3), torch.ones(3), clean, 0, 9)
    with pytest.raises(NotFinite) as caught:
        monitor.read()
    assert caught.value.num_images == 3
    assert caught.value.bad.tolist() == [False, True, False]


def test_monitor_marks_bad_pictures_in_every_part_of_the_first_bad_batch() -> None:
    monitor = Monitor(4, ALONE)
    for start, losses in ((0, [math.nan, 1.0]), (2, [1.0, math.inf])):
        monitor.add(torch.tensor(losses), torch.zeros(2), torch.ones(2), torch.zeros(2, dtype=torch.int64), start, 8)
    with pytest.raises(NotFinite) as caught:
        monitor.read()
    assert (caught.value.num_images, caught.value.bad.tolist()) == (8, [True, False, False, True])
