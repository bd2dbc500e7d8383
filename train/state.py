"""Everything that training changes: weights, their average, the optimiser's moments, pictures seen."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..schemas.space import Space
from . import ema
from .checkpoint import Checkpoint, Tensors
from .config import TrainConfig
from .networks.unet import UNet
from .precondition import Denoiser

PARTS = ("weights", "ema", "optimizer")
_BETAS = (0.9, 0.99)


@dataclass(kw_only=True, slots=True)
class State:
    """denoiser: being trained. average: its exponential moving average, for samples. num_images: pictures seen."""

    denoiser: Denoiser
    average: Denoiser
    optimizer: torch.optim.Adam
    num_images: int = 0

    def update(self, config: TrainConfig) -> None:
        """One step of the optimiser and of the average, after backward()."""
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.num_images)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_images += config.batch_size
        keep = ema.decay(self.num_images, config.batch_size, config.ema_halflife)
        ema.update(self.average.parameters(), self.denoiser.parameters(), keep)

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(weight.isfinite().all()) for weight in self.denoiser.parameters())

    def to_checkpoint(self, about: dict[str, Any]) -> Checkpoint:
        moments: Tensors = {}
        for name, weight in self.denoiser.named_parameters():
            for key, tensor in self.optimizer.state[weight].items():
                moments[f"{name}:{key}"] = tensor
        parts = {"weights": _weights(self.denoiser), "ema": _weights(self.average), "optimizer": moments}
        return Checkpoint(num_images=self.num_images, parts=parts, about=about)

    def restore(self, checkpoint: Checkpoint) -> None:
        self.num_images = checkpoint.num_images
        load_weights(self.denoiser, checkpoint.parts["weights"])
        load_weights(self.average, checkpoint.parts["ema"])
        weights = dict(self.denoiser.named_parameters())
        for name, tensor in checkpoint.parts["optimizer"].items():
            weight, key = weights[name.rpartition(":")[0]], name.rpartition(":")[2]
            # Moments lie in memory as their weights do, which may be channels-last.
            like = torch.empty_like(weight) if tensor.shape == weight.shape else tensor.to(weight.device)
            self.optimizer.state[weight][key] = like.detach().copy_(tensor)


def new_state(config: TrainConfig, space: Space, device: torch.device) -> State:
    """State before the first picture: a function of the configuration and the Space."""
    denoiser = build_denoiser(config, space).to(device)
    average = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=config.lr, betas=_BETAS, fused=True)
    return State(denoiser=denoiser, average=average, optimizer=optimizer)


def build_denoiser(config: TrainConfig, space: Space) -> Denoiser:
    """The configured network for pictures of this Space, on the CPU; its first weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = UNet(
            config.network, channels=space.channels, resolution=space.resolution, num_classes=config.num_classes
        )
    return Denoiser(network, sigma_data=space.sigma_data).to(memory_format=torch.channels_last)


@torch.no_grad()
def load_weights(denoiser: Denoiser, weights: Tensors) -> None:
    """Copy named weights into the denoiser, keeping its device and memory layout."""
    denoiser.load_state_dict(weights)


def _weights(denoiser: Denoiser) -> dict[str, Tensor]:
    return dict(denoiser.state_dict())
