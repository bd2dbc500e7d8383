"""Runs with random weights, written directly: what training would leave behind."""

from pathlib import Path

import torch
from ambient.schemas.space import Space
from ambient.train import checkpoint
from ambient.train.config import TrainConfig
from ambient.train.networks.unet import UNetConfig
from ambient.train.state import new_state
from ambient.train.world import World

PIXELS = Space(resolution=8, channels=3)


def write_run(
    folder: Path,
    *,
    space: Space = PIXELS,
    num_classes: int = 0,
    trains_none: bool = False,
    flip: bool = False,
    seed: int = 0,
) -> Path:
    """A run of one checkpoint after 100 pictures. Its network is far from zero, and tells its classes apart."""
    network = UNetConfig(channels=8, multipliers=(1, 2), blocks=1)
    config = TrainConfig(network=network, num_classes=num_classes, flip=flip, seed=seed)
    state = new_state(config, space, World(rank=0, size=1, device=torch.device("cpu")))
    state.num_images = 100
    generator = torch.Generator().manual_seed(seed)
    for weight in state.average.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=generator)
    about = {"config": config.to_json(), "fingerprint": "", "space": space.to_json(), "trains_none": trains_none}
    checkpoint.write(folder, state.to_checkpoint(about), keep=1)
    return folder
