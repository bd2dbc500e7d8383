"""What a step of the optimiser does to the weights, and what all that is trained takes of memory."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.networks.edm2 import EDM2Config, MPLayer
from ambient.train.networks.unet import UNetConfig
from ambient.train.state import State, build_denoiser, new_state, should_shard, weights_bytes
from ambient.train.world import World
from torch.testing import assert_close

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
CONFIG = TrainConfig(
    num_images=80,
    batch_size=8,
    lr=0.1,
    warmup_images=0,
    ema_stds=(0.05, 0.1, 0.2),
    network=UNetConfig(channels=8, multipliers=(1, 2), blocks=1),
)


def with_gradients(config: TrainConfig) -> State:
    """A first state with gradients of noise."""
    state = new_state(config, Space(resolution=8, channels=1), ALONE)
    torch.manual_seed(0)
    for weight in state.denoiser.parameters():
        weight.grad = torch.randn_like(weight)
    return state


def test_a_step_leaves_weights_of_edm2_with_unit_mean_square() -> None:
    """Forced weight normalisation (arXiv 2312.02696, eq. 66)."""
    config = replace(CONFIG, network=EDM2Config(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(8,)))
    state = with_gradients(config)
    layers = [layer for layer in state.denoiser.modules() if isinstance(layer, MPLayer)]
    before = [layer.weight.detach().clone() for layer in layers]
    state.update(config, ALONE)
    assert len(layers) > 10
    for layer, old in zip(layers, before, strict=True):
        assert (layer.weight - old).abs().max() > 0.01
        assert_close(layer.weight.flatten(1).square().mean(1), torch.ones(len(layer.weight)))


def test_memory_is_that_of_weights_gradients_moments_and_averages() -> None:
    state = with_gradients(CONFIG)
    weights = list(state.denoiser.parameters())
    kept = [*weights, *(weight.grad for weight in weights)]
    state.update(CONFIG, ALONE)
    kept += [state.optimizer.state[weight][name] for weight in weights for name in ("exp_avg", "exp_avg_sq")]
    kept += [weight for average in state.averages for weight in average.parameters()]
    assert len(kept) == 7 * len(weights)
    assert weights_bytes(sum(weight.numel() for weight in weights), CONFIG) == sum(tensor.nbytes for tensor in kept)


def test_weights_are_spread_where_one_gpu_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``sharding=auto``: where they and what belongs to them take more than half of its memory."""
    denoiser = build_denoiser(CONFIG, Space(resolution=8, channels=1))
    needed = weights_bytes(sum(weight.numel() for weight in denoiser.parameters()), CONFIG)
    memory = SimpleNamespace(total_memory=2 * needed)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: memory)
    one, two = (World(rank=0, size=size, device=torch.device("cuda", 0)) for size in (1, 2))

    def spread(world: World, sharding: str = "auto") -> bool:
        return should_shard(denoiser, replace(CONFIG, sharding=sharding), world)

    assert not spread(two)
    memory.total_memory = 2 * needed - 2
    assert spread(two)
    assert not spread(two, "ddp")
    assert not spread(one) and not spread(one, "fsdp")
    on_cpu = replace(two, device=torch.device("cpu"))
    assert spread(on_cpu, "fsdp") and not spread(on_cpu)
