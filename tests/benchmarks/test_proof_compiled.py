"""Ablations as GPUs train them, compiled, one after the other in one program: each is seen, and forgotten later."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ambient.train import loop
from ambient.train.batches import Batch
from ambient.train.config import TrainConfig
from ambient.train.rows import Rows, read_rows
from ambient.train.state import State, new_state
from ambient.train.target import fixed_noise, fresh_noise
from ambient.train.world import World
from small_pool import write_pool
from torch import Tensor

pytestmark = pytest.mark.usefixtures("proof")

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")
STEPS_UNTIL_REPLAYED = 6
Losses = Callable[[int], Tensor]
"""What is ``trained``, (4,), in a step with so much progress."""


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return read_rows(write_pool(tmp_path))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as ever, but run without a compiler, which the machine may lack."""
    show = torch.compile(loop.shown, backend="eager", dynamic=False)
    monkeypatch.setattr(loop, "compiled_shown", lambda: show)


def batch_of(rows: Rows, device: torch.device) -> tuple[Batch, Tensor]:
    """Four pictures, the last of which is used everywhere."""
    number, w0 = torch.arange(4), torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    columns = {"indices": number, "rows": number, "use": number, "names": rows.names[:4]}
    columns |= {"sigma": torch.tensor([0.6, 1.0, 3.0, 1.0]), "s": torch.tensor([0.5, 0.5, 0.5, 0.0])}
    return Batch(**{name: column.to(device) for name, column in columns.items()}, condition=None), w0.to(device)


def started(rows: Rows, settings: dict[str, Any], device: torch.device) -> tuple[State, TrainConfig, World]:
    texts = ["network.channels=8", "network.multipliers=1", *(f"{key}={value}" for key, value in settings.items())]
    config, world = TrainConfig.from_settings([*texts, "batch_size=4"]), World(rank=0, size=1, device=device)
    return new_state(config, rows.space, world), config, world


def compiled_losses(rows: Rows, settings: dict[str, Any], device: torch.device) -> Losses:
    """As ``train`` has them of a run."""
    (state, config, world), (batch, w0) = started(rows, settings, device), batch_of(rows, device)
    backward = loop.build_backward(state, rows, config, world, compiled=True)

    def losses(progress: int) -> Tensor:
        for weight in state.denoiser.parameters():
            weight.grad = None
        torch.manual_seed(progress)
        return backward(batch, w0, 4)["trained"].clone()

    return losses


def test_a_fresh_z_is_new_in_each_compiled_step_and_later_fixed_again(rows: Rows, compiled: None) -> None:
    from ablations import ABLATIONS

    batch, w0 = batch_of(rows, CPU)
    spread, s = (batch.sigma**2 - batch.s**2).sqrt().view(-1, 1, 1, 1), batch.s.view(-1, 1, 1, 1)
    e, fixed = fresh_noise(batch.indices, SHAPE, seed=0), fixed_noise(batch.names, SHAPE, seed=0)

    def assert_noise(progress: int, z: Tensor) -> None:
        torch.manual_seed(progress)
        about = {"flip": False, "probability": 0.0, "target": "ambient"}
        x_t, *_ = loop.compiled_shown()(w0, batch.names, batch.indices, batch.sigma, batch.s, torch.tensor(0), **about)
        torch.testing.assert_close(x_t, w0 + s * z + spread * e)

    for _ in range(5):  # more often than a function is compiled anew
        assert_noise(0, fixed)
        assert_noise(1, fixed)
        undo = ABLATIONS["fresh"].patch()
        for progress in (0, 1):
            assert_noise(progress, torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(progress)))
        undo()


def test_compiled_ablations_train_what_they_do_without(rows: Rows, compiled: None) -> None:
    from ablations import ABLATIONS

    usual = compiled_losses(rows, {}, CPU)(0)
    for change in ABLATIONS.values():
        undo = change.patch()
        (state, config, _), (batch, w0) = started(rows, change.settings, CPU), batch_of(rows, CPU)
        found = compiled_losses(rows, change.settings, CPU)
        for progress in (0, 1):
            torch.manual_seed(progress)
            expected = loop.loss_of(state, batch, w0, rows, config, CPU)["trained"].detach()
            torch.testing.assert_close(found(progress), expected)
        undo()
        torch.testing.assert_close(compiled_losses(rows, {}, CPU)(0), usual)


@pytest.mark.gpu
def test_a_replayed_step_has_a_fresh_z_and_the_next_run_a_fixed_one(rows: Rows) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from ablations import ABLATIONS

    seen: dict[str, Tensor] = {}
    for label in ("ambient", "fresh", "ambient", "plain", "clip-2", "ambient"):
        change = ABLATIONS[label]
        undo = change.patch()
        losses = compiled_losses(rows, change.settings, torch.device("cuda"))
        steps = torch.stack([losses(progress) for progress in (*range(STEPS_UNTIL_REPLAYED), 0)])
        undo()
        moved = (steps[1:-1] - steps[:-2]).abs().amax(dim=1)
        assert bool(((moved > 0.01) == (label in ("fresh", "plain"))).all()), label
        torch.testing.assert_close(steps[-1], steps[0], rtol=0.01, atol=0.01)  # replayed, and not yet recorded
        torch.testing.assert_close(steps, seen.setdefault(label, steps), rtol=0.01, atol=0.01)
    assert float((seen["clip-2"] - seen["ambient"]).abs().amax()) > 0.01
