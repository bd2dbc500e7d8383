"""The memory that a run would take, against what is really kept."""

from pathlib import Path

import pytest
import torch
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig, load_preset, presets
from ambient.train.networks.unet import UNetConfig
from ambient.train.plan import _size, describe
from ambient.train.state import build_denoiser
from small_pool import write_pool


def test_activations_are_those_that_a_real_forward_pass_keeps() -> None:
    config = TrainConfig(network=UNetConfig(channels=16, multipliers=(1, 2), blocks=1), precision="fp32")
    space = Space(resolution=16, channels=3)
    denoiser = build_denoiser(config, space)
    weights = {weight.data_ptr() for weight in denoiser.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:  # the tensor is held, so that no other takes its address
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = denoiser(torch.randn(8, 3, 16, 16), torch.ones(8))
    parameters, activations = _size(config, space)
    assert parameters == sum(weight.numel() for weight in denoiser.parameters())
    assert activations == pytest.approx(sum(size for size, _ in kept.values()) / len(output), rel=0.05)


@pytest.mark.parametrize("preset", presets())
def test_every_preset_can_be_planned(tmp_path: Path, preset: str) -> None:
    config = load_preset(preset)
    space = Space(resolution=config.resolution or 32, channels=3)
    labels = list(range(12)) if config.num_classes else None
    plan = describe(write_pool(tmp_path, space=space, labels=labels), config)
    assert plan["steps"] * config.batch_size >= config.num_images
    assert plan["memory_gib"]["activations"] > plan["memory_gib"]["activations_compiled"] > 0
