"""The stream of training pictures: a pure function of the configuration and of how many pictures came before."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from ..curate.noise import Purpose, uniforms
from ..schemas.errors import UserError
from .config import TrainConfig
from .rows import Rows
from .sampler import Sampler, slots
from .target import noise_floor
from .world import World

_AHEAD = 1 << 14  # pictures drawn at a time: the sampler is fastest in large lots


class Use(IntEnum):
    """As what a picture is used."""

    CLEAN = 0  # it may be used at every level
    HIGH = 1  # above its sigma_min
    LOW = 2  # below its sigma_max


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One rank's B training pictures of a step, on the training device.

    indices: (B,) int64 global. rows: (B,) int64 of ``Rows``, where the pictures are. names: (B,) int64 of their fixed
    noise. sigma, s: (B,) float32, noise level and noise floor. use: (B,) int64, a ``Use``.
    condition: (B,) int64 classes, or None.
    """

    indices: Tensor
    rows: Tensor
    names: Tensor
    sigma: Tensor
    s: Tensor
    use: Tensor
    condition: Tensor | None

    def parts(self, size: int | None) -> Iterator[tuple[slice, "Batch"]]:
        """The batch in pieces of at most ``size`` pictures, with where each lies in it."""
        for start in range(0, len(self.indices), size or len(self.indices)):
            part = slice(start, start + (size or len(self.indices)))
            condition = None if self.condition is None else self.condition[part]
            columns = (self.indices, self.rows, self.names, self.sigma, self.s, self.use)
            i, r, n, level, floor, use = (column[part] for column in columns)
            yield part, Batch(indices=i, rows=r, names=n, sigma=level, s=floor, use=use, condition=condition)


def batches(
    rows: Rows,
    sampler: Sampler,
    condition: Tensor | None,
    config: TrainConfig,
    *,
    start: int,
    world: World,
    pictures_on: torch.device,
) -> Iterator[Batch]:
    """This rank's share of the batches that begin with training picture ``start``, to the end of the run.

    condition: of each row, from ``conditions``. pictures_on: the device that wants the row numbers.
    """
    num_ranks, size = world.size, config.batch_size // world.size
    lot = max(1, _AHEAD // config.batch_size) * config.batch_size
    end = config.num_steps * config.batch_size
    for first in range(start, end, lot):
        indices = slots(first, min(lot, end - first), rank=world.rank, world_size=num_ranks)
        row, sigma = sampler.draw(indices)
        s = noise_floor(sigma, rows.sigma_min[row], rows.sigma_max[row])
        use = torch.where(rows.sigma_min[row] == 0, Use.CLEAN, torch.where(s > 0, Use.HIGH, Use.LOW))
        classes = None if condition is None else without_some(condition[row], indices, config)
        whole = Batch(
            indices=_send(indices, world.device),
            rows=_send(row, pictures_on),
            names=_send(rows.names[row], world.device),
            sigma=_send(sigma, world.device),
            s=_send(s, world.device),
            use=_send(use, world.device),
            condition=None if classes is None else _send(classes, world.device),
        )
        for _, batch in whole.parts(size):
            yield batch


def conditions(rows: Rows, num_classes: int) -> Tensor | None:
    """(N,) int64 class of each row, num_classes where the manifest has no label; None for an unconditional run.

    Raises UserError where a label is not below num_classes, or no picture has one.
    """
    if num_classes == 0:
        return None
    if int(rows.labels.max()) < 0:
        raise UserError(f"num_classes is {num_classes}, but the manifest has no labels: set num_classes=0")
    if (largest := int(rows.labels.max())) >= num_classes:
        raise UserError(f"the manifest has label {largest}: set num_classes to at least {largest + 1}")
    return torch.where(rows.labels < 0, num_classes, rows.labels)


def without_some(classes: Tensor, indices: Tensor, config: TrainConfig) -> Tensor:
    """The classes (B,) of training pictures number indices (B,), a share label_dropout of them turned to "none"."""
    if config.label_dropout == 0:
        return classes
    u = uniforms(indices, 1, seed=config.seed, purpose=Purpose.LABEL)[:, 0]
    return torch.where(u < config.label_dropout, config.num_classes, classes)


def _send(column: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for the steps that are under way there."""
    return column.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else column


def trains_none(rows: Rows, config: TrainConfig) -> bool:
    """Whether a run trains the class "none", which guides the others when pictures are drawn."""
    return config.num_classes > 0 and (config.label_dropout > 0 or bool((rows.labels < 0).any()))
