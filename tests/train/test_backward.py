"""Gradients of a step: what is recorded on a GPU keeps its tensors, and gives what a step without that gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from ambient.train.backward import Backward
from ambient.train.batches import Batch, batches, conditions
from ambient.train.config import TrainConfig
from ambient.train.device import use_fast_kernels
from ambient.train.loop import build_backward, build_sampler, loss_of, step
from ambient.train.monitor import Monitor
from ambient.train.networks.unet import UNetConfig
from ambient.train.pictures import open_pictures, with_pictures
from ambient.train.rows import Rows, read_rows
from ambient.train.state import State, new_state
from ambient.train.world import World
from small_pool import write_pool
from torch import Tensor

CPU = World(rank=0, size=1, device=torch.device("cpu"))
CONFIG = TrainConfig(
    num_images=160,
    batch_size=8,
    num_classes=2,
    label_dropout=0.2,
    augment=0.5,
    network=UNetConfig(channels=8, multipliers=(1, 2), blocks=1, dropout=0.2, augment_dim=9),
)


def rows_of(folder: Path) -> Rows:
    return read_rows(write_pool(folder, labels=[0, 1, None] * 4))


def trained(rows: Rows, config: TrainConfig, world: World) -> tuple[State, float]:
    """State and mean loss after every step of the run."""
    state, monitor = new_state(config, rows.space, world), Monitor(config.batch_size, world)
    backward = build_backward(state, rows, config, world)
    pictures = open_pictures(rows, world.device, place="device")
    stream = batches(
        rows,
        build_sampler(rows, config),
        conditions(rows, 2),
        config,
        start=0,
        world=world,
        pictures_on=pictures.device,
    )
    for batch, w0 in with_pictures(stream, pictures, world.device):
        step(state, batch, w0, config, world, monitor, backward)
    return state, monitor.read().loss


def recorded(state: State, rows: Rows, config: TrainConfig) -> Backward:
    """As on a GPU, but that the function is called instead of replayed."""

    def losses(batch: Batch, w0: Tensor) -> dict[str, Tensor]:
        return loss_of(state, batch, w0, rows, config, CPU.device)

    return Backward(losses, list(state.denoiser.parameters()), CPU.device, record=True)


def test_each_shape_is_compiled_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    @contextmanager
    def noted() -> Iterator[None]:
        entered.append(len(shown))
        yield

    monkeypatch.setattr("ambient.train.backward.compiling", noted)
    weight, shown = torch.nn.Parameter(torch.ones(())), []

    def losses(batch: Batch, w0: Tensor) -> dict[str, Tensor]:
        shown.append(len(w0))
        return {"trained": weight * w0.sum(dim=1)}

    backward = Backward(losses, [weight], CPU.device, record=False)
    for num in (3, 3, 2, 3, 2):  # a batch in parts leaves a rest
        backward(None, torch.ones(num, 4), 8)
    assert shown == [3, 3, 2, 3, 2]
    assert entered == [0, 2]


def test_with_tensors_that_are_kept_gradients_are_the_same(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    state = new_state(CONFIG, rows.space, CPU)
    pictures = open_pictures(rows, CPU.device, place="device")
    stream = batches(
        rows, build_sampler(rows, CONFIG), conditions(rows, 2), CONFIG, start=0, world=CPU, pictures_on=CPU.device
    )
    kept, plain = recorded(state, rows, CONFIG), build_backward(state, rows, CONFIG, CPU)
    seen = []
    for batch, w0 in islice(with_pictures(stream, pictures, CPU.device), 4):
        found = []
        for backward in (kept, plain):
            state.optimizer.zero_grad(set_to_none=True)
            torch.manual_seed(0)  # dropout
            losses = backward(batch, w0, len(batch.indices))
            gradients = [weight.grad for weight in state.denoiser.parameters()]
            assert all(gradient is not None for gradient in gradients)
            assert not losses["weighted"].requires_grad
            found.append([*(losses[name].clone() for name in sorted(losses)), *(g.clone() for g in gradients)])
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours, theirs)
        seen.append(found[0])
    assert not torch.equal(seen[0][-1], seen[1][-1])  # another batch, other gradients


def test_parts_of_a_batch_add_up(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    config = replace(CONFIG, num_images=8, network=replace(CONFIG.network, dropout=0.0))
    whole, parts = (trained(rows, replace(config, micro_batch=size), CPU)[0] for size in (None, 2))
    for name, weight in whole.denoiser.named_parameters():
        moment = whole.optimizer.state[weight]["exp_avg"]
        other = parts.optimizer.state[dict(parts.denoiser.named_parameters())[name]]["exp_avg"]
        torch.testing.assert_close(moment, other, rtol=1e-4, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replayed_step_is_the_step(tmp_path: Path, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows, world = rows_of(tmp_path), World(rank=0, size=1, device=torch.device("cuda"))
    use_fast_kernels(world.device)
    config = replace(CONFIG, precision=precision)
    (plain, loss), (graph, again) = (
        trained(rows, replace(config, cuda_graphs=graphs), world) for graphs in (False, True)
    )
    assert abs(loss - again) < 1e-5
    for a, b in zip(plain.denoiser.parameters(), graph.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    """Neither what is drawn and gathered for it, nor one that is recorded, nor one that is replayed."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows, world = rows_of(tmp_path), World(rank=0, size=1, device=torch.device("cuda"))
    state, monitor = new_state(CONFIG, rows.space, world), Monitor(CONFIG.batch_size, world)
    backward, sampler = build_backward(state, rows, CONFIG, world), build_sampler(rows, CONFIG)
    pictures = open_pictures(rows, world.device, place="device")
    told = {"start": 0, "world": world, "pictures_on": pictures.device}
    stream = with_pictures(batches(rows, sampler, conditions(rows, 2), CONFIG, **told), pictures, world.device)
    for batch, w0 in islice(stream, 8):  # recorded after a few
        step(state, batch, w0, CONFIG, world, monitor, backward)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for batch, w0 in islice(stream, 8):
            step(state, batch, w0, CONFIG, world, monitor, backward)
    finally:
        torch.cuda.set_sync_debug_mode("default")
