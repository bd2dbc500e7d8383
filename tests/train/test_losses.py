"""What the network is shown of a batch, what it is told, and the loss that it learns from, against closed forms."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ambient.train import augment
from ambient.train.backward import Backward
from ambient.train.batches import Batch, batches, conditions
from ambient.train.config import TrainConfig
from ambient.train.loop import build_sampler, loss_of, shown
from ambient.train.networks.unet import UNetConfig
from ambient.train.rows import Rows, read_rows
from ambient.train.target import TARGETS, fixed_noise, fresh_noise, weighted_loss
from ambient.train.world import World
from small_pool import write_pool
from torch import Tensor, nn
from torch.testing import assert_close

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
CONFIG = TrainConfig(num_images=16, batch_size=16, num_classes=2)
W0 = torch.linspace(-1, 1, 16 * 64).view(16, 1, 8, 8)


class Stub(nn.Module):
    """Sees 0.25 in every picture, is unsure by u, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.linspace(-1, 2, 16))
        self.told: dict[str, Tensor | None] = {}

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Tensor | None, *, augment: Tensor | None, uncertain: bool
    ) -> tuple[Tensor, Tensor]:
        self.told = {"x": x, "sigma": sigma, "condition": condition, "augment": augment}
        return torch.full_like(x, 0.25), self.u


def first_batch(folder: Path, config: TrainConfig, *, sigma_min: list[float] | None = None) -> tuple[Rows, Batch]:
    """By default of clean pictures, whose target is w_0."""
    rows = read_rows(write_pool(folder, labels=[0, 1, None] * 4, sigma_min=sigma_min or [0.0] * 12))
    classes = conditions(rows, config.num_classes)
    stream = batches(rows, build_sampler(rows, config), classes, config, start=0, world=ALONE, pictures_on=ALONE.device)
    return rows, next(stream)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("probability", [0.0, 0.9])
def test_a_mirrored_picture_takes_its_fixed_noise_along(target: str, probability: float) -> None:
    """So (x_t, y) are those of the picture as it was, mirrored; only the fresh noise comes after the mirror."""
    indices, names = torch.arange(200), torch.arange(200) + 1_000
    generator = torch.Generator().manual_seed(0)
    w0, s = torch.randn(200, 2, 4, 4, generator=generator), torch.full((200,), 0.5)
    sigma = torch.linspace(0.6, 5, 200)
    if probability:  # noised pictures are flipped, and nothing else
        _, flips, _ = augment.geometric(w0, s, indices, probability=probability, seed=3)
        assert flips.down.any()
    else:
        flips = augment.mirror(indices, seed=3)
    assert 60 < int(flips.across.sum()) < 140
    z, e = fixed_noise(names, (2, 4, 4), seed=3), fresh_noise(indices, (2, 4, 4), seed=3)
    before = TARGETS[target](w0, z, sigma, s, augment.flipped(e, flips))
    *seen, _ = shown(w0, names, indices, sigma, s, 3, flip=not probability, probability=probability, target=target)
    for found, picture in zip(seen, before, strict=True):
        assert torch.equal(found, augment.flipped(picture, flips))


def test_the_network_is_told_levels_and_labels(tmp_path: Path) -> None:
    rows, batch = first_batch(tmp_path, CONFIG)
    stub = Stub()
    loss_of(SimpleNamespace(denoiser=stub), batch, W0, rows, CONFIG, ALONE.device)
    assert torch.equal(stub.told["sigma"], batch.sigma)
    assert torch.equal(stub.told["condition"], torch.tensor([0, 1, 2])[batch.rows % 3])


@pytest.mark.parametrize(
    "changes", [{}, {"flip": True}, {"target": "plain"}, {"augment": 0.5, "network": UNetConfig(augment_dim=9)}]
)
def test_the_network_sees_and_learns_what_the_configuration_says(tmp_path: Path, changes: dict[str, Any]) -> None:
    config, stub = replace(CONFIG, **changes), Stub()
    rows, batch = first_batch(tmp_path, config, sigma_min=[0.0, 0.2, 0.5] * 4)
    losses = loss_of(SimpleNamespace(denoiser=stub), batch, W0, rows, config, ALONE.device)
    wanted = {"flip": config.flip, "target": config.target, "probability": config.augment}
    x_t, y, told = shown(W0, batch.names, batch.indices, batch.sigma, batch.s, 0, **wanted)
    assert_close((stub.told["x"], stub.told["augment"]), (x_t, told))
    assert_close(losses["weighted"], weighted_loss(torch.full_like(y, 0.25), y, batch.sigma, rows.space.sigma_data))


def test_the_trained_loss_has_the_learnt_uncertainty(tmp_path: Path) -> None:
    """exp(-u) lambda ||D - y||^2 + u (arXiv 2312.02696, eq. 21), and its gradient by u."""
    rows, batch = first_batch(tmp_path, CONFIG)
    stub = Stub()
    backward = Backward(
        lambda batch, w0: loss_of(SimpleNamespace(denoiser=stub), batch, w0, rows, CONFIG, ALONE.device),
        [stub.u],
        ALONE.device,
        record=False,
    )
    losses = backward(batch, W0, 16)
    u, sigma_data = stub.u.detach(), rows.space.sigma_data
    weighted = (1 / batch.sigma**2 + 1 / sigma_data**2) * (W0 - 0.25).square().mean(dim=(1, 2, 3))
    assert_close(losses["weighted"], weighted)
    assert_close(losses["trained"], weighted / u.exp() + u)
    assert_close(stub.u.grad, (1 - weighted / u.exp()) / 16)
