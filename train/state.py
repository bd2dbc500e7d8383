"""Everything that training changes: weights, their averages, the optimiser's moments, pictures seen."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from ..schemas.space import Space
from . import ema
from .checkpoint import Checkpoint, Tensors
from .config import TrainConfig
from .device import uses_bf16
from .networks.kinds import BLOCKS, build_network
from .precondition import Denoiser
from .world import World, average_gradients, local, spread_like, whole

_BYTES_PER_WEIGHT = 4 * 4  # float32 weights, gradients and two moments; each average adds 4
_WEIGHTS_SHARE = 0.5  # of a GPU's memory that these may take before they are spread over GPUs


@dataclass(kw_only=True, slots=True)
class State:
    """denoiser: being trained. averages: its power-function averages, in the order of ``config.ema_stds``.

    num_images: pictures seen. sharded: whether weights are spread over the ranks.
    """

    denoiser: Denoiser
    averages: list[Denoiser]
    optimizer: torch.optim.Adam
    sharded: bool = False
    num_images: int = 0

    @property
    def average(self) -> Denoiser:
        """The average that samples are drawn from."""
        return self.averages[0]

    def update(self, config: TrainConfig, world: World) -> None:
        """One step of the optimiser and of the averages, after backward()."""
        weights = list(self.denoiser.parameters())
        if not self.sharded:
            average_gradients(weights, world)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr_at(self.num_images)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.denoiser.normalize_weights_()
        self.num_images += config.batch_size
        mine = [local(weight) for weight in weights]
        for average, sigma_rel in zip(self.averages, config.ema_stds, strict=True):
            keep = ema.decay(self.num_images, config.batch_size, sigma_rel)
            ema.update([local(weight) for weight in average.parameters()], mine, keep)

    def is_finite(self, world: World) -> bool:
        """Whether every weight is a finite number. Every rank must call."""
        return not world.any(not all(bool(local(weight).isfinite().all()) for weight in self.denoiser.parameters()))

    def to_checkpoint(self, about: dict[str, Any]) -> Checkpoint:
        """A copy on the CPU, which later steps do not change. Every other rank must call ``help_checkpoint``."""
        parts = {part: {name: _copy(tensor) for name, tensor in some.items()} for part, some in self._parts().items()}
        return Checkpoint(num_images=self.num_images, parts=parts, about=about)

    def help_checkpoint(self) -> None:
        """Send what of the weights lies on this rank to the one that calls ``to_checkpoint``; nothing is kept."""
        for some in self._parts().values():
            for tensor in some.values():
                whole(tensor.detach())

    def _parts(self) -> dict[str, Tensors]:
        """What a checkpoint holds, in an order that is the same on every rank."""
        weights = {"weights": self.denoiser, **{f"ema{i}": average for i, average in enumerate(self.averages)}}
        moments: Tensors = {}
        for name, weight in self.denoiser.named_parameters():
            for key, tensor in self.optimizer.state[weight].items():
                moments[f"{name}:{key}"] = tensor
        return {**{part: model.state_dict() for part, model in weights.items()}, "optimizer": moments}

    def restore(self, checkpoint: Checkpoint) -> None:
        self.num_images = checkpoint.num_images
        load_weights(self.denoiser, checkpoint.parts["weights"])
        for i, average in enumerate(self.averages):
            load_weights(average, checkpoint.parts[f"ema{i}"])
        weights = dict(self.denoiser.named_parameters())
        for name, tensor in checkpoint.parts["optimizer"].items():
            weight, key = weights[name.rpartition(":")[0]], name.rpartition(":")[2]
            if tensor.shape != weight.shape:  # the count of steps
                self.optimizer.state[weight][key] = tensor.to(weight.device)
            else:  # moments lie in memory as their weights do, which may be channels-last
                self.optimizer.state[weight][key] = torch.empty_like(weight).copy_(spread_like(tensor, weight)).detach()


def parts_of(config: TrainConfig) -> tuple[str, ...]:
    """Names of the parts of a checkpoint."""
    return ("weights", *(f"ema{i}" for i in range(len(config.ema_stds))), "optimizer")


def new_state(config: TrainConfig, space: Space, world: World) -> State:
    """State before the first picture: a function of the configuration and the Space."""
    denoiser = build_denoiser(config, space).to(world.device)
    averages = [copy.deepcopy(denoiser).eval().requires_grad_(False) for _ in config.ema_stds]
    sharded = should_shard(denoiser, config, world)
    if sharded:
        for model in (denoiser, *averages):
            _shard(model, config, world)
    optimizer = torch.optim.Adam(
        denoiser.parameters(), lr=config.lr, betas=(0.9, config.beta2), eps=config.eps, fused=True
    )
    return State(denoiser=denoiser, averages=averages, optimizer=optimizer, sharded=sharded)


def build_denoiser(config: TrainConfig, space: Space) -> Denoiser:
    """The configured network for pictures of this Space, on the CPU; its first weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(
            config.network, channels=space.channels, resolution=space.resolution, num_classes=config.num_classes
        )
    return Denoiser(network, sigma_data=space.sigma_data).to(memory_format=torch.channels_last)


def weights_bytes(num_parameters: int, config: TrainConfig) -> int:
    """Memory for weights, gradients, moments and averages, without activations."""
    return num_parameters * (_BYTES_PER_WEIGHT + 4 * len(config.ema_stds))


def should_shard(denoiser: Denoiser, config: TrainConfig, world: World) -> bool:
    """Whether weights are spread over the GPUs: where they are many and one GPU has no room."""
    if world.size == 1 or config.sharding == "ddp":
        return False
    if config.sharding == "fsdp":
        return True
    num = sum(weight.numel() for weight in denoiser.parameters())
    if world.device.type != "cuda":
        return False
    return weights_bytes(num, config) > _WEIGHTS_SHARE * torch.cuda.get_device_properties(world.device).total_memory


@torch.no_grad()
def load_weights(denoiser: Denoiser, weights: Tensors) -> None:
    """Copy named whole weights into the denoiser, keeping its device, memory layout and spread."""
    mine = denoiser.state_dict()
    if missing := sorted(set(mine) ^ set(weights)):
        raise ValueError(f"the weights are of another network: {missing[0]}")
    for name, tensor in mine.items():
        tensor.copy_(spread_like(weights[name], tensor))


def _shard(model: Denoiser, config: TrainConfig, world: World) -> None:
    """Spread the weights of each block over the ranks (FSDP2), which send each other bfloat16 if they compute in it.

    What lies outside of the blocks is small and stays float32: autocast decides there, and embeddings opt out of it.
    """
    model.to(memory_format=torch.contiguous_format)  # of which FSDP2 takes nothing else
    mesh = init_device_mesh(world.device.type, (world.size,))
    precision = torch.bfloat16 if uses_bf16(world.device, config.precision) else None
    sent = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in list(model.network.modules()):
        if isinstance(block, BLOCKS):
            fully_shard(block, mesh=mesh, mp_policy=sent)
    kept = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, mp_policy=kept, reshard_after_forward=True)  # also where no backward() follows


def _copy(tensor: Tensor) -> Tensor:
    one = whole(tensor.detach())
    return one.clone() if one.device.type == "cpu" else one.cpu()
