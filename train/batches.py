"""The stream of training pictures: a pure function of the configuration and of how many pictures came before."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..curate.noise import Purpose, names_of, uniforms
from ..schemas.errors import UserError
from .config import TrainConfig
from .data import Rows
from .sampler import Sampler, slots
from .target import noise_floor

_AHEAD = 1 << 14  # pictures drawn at a time: the sampler is fastest in large lots


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B training pictures, on the training device.

    indices: (B,) int64 global. rows: (B,) int64 of ``Rows``. names: (B,) int64 of their fixed noise.
    sigma, s: (B,) float32, noise level and noise floor. condition: (B,) int64 classes, or None.
    """

    indices: Tensor
    rows: Tensor
    names: Tensor
    sigma: Tensor
    s: Tensor
    condition: Tensor | None


def batches(
    rows: Rows, sampler: Sampler, condition: Tensor | None, config: TrainConfig, *, start: int, device: torch.device
) -> Iterator[Batch]:
    """Batches of training pictures start, start + 1, ... to the end of the run.

    condition: of each row, from ``conditions``.
    """
    names = names_of(rows.ids)
    lot = max(1, _AHEAD // config.batch_size) * config.batch_size
    end = config.num_steps * config.batch_size
    for first in range(start, end, lot):
        indices = slots(first, min(lot, end - first))
        row, sigma = sampler.draw(indices)
        s = noise_floor(sigma, rows.sigma_min[row], rows.sigma_max[row])
        columns = [column.to(device) for column in (indices, row, names[row], sigma, s)]
        classes = None if condition is None else without_some(condition[row], indices, config).to(device)
        for begin in range(0, len(indices), config.batch_size):
            part = slice(begin, begin + config.batch_size)
            i, r, n, level, floor = (column[part] for column in columns)
            c = None if classes is None else classes[part]
            yield Batch(indices=i, rows=r, names=n, sigma=level, s=floor, condition=c)


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
    """The classes (B,) of training pictures number indices (B,), a share label_dropout of them turned to "none".

    Which, depends on the number of the training picture only.
    """
    if config.label_dropout == 0:
        return classes
    u = uniforms(indices, 1, seed=config.seed, purpose=Purpose.DRAW, index=1)[:, 0]  # index 0 draws row and sigma
    return torch.where(u < config.label_dropout, config.num_classes, classes)


def trains_none(rows: Rows, config: TrainConfig) -> bool:
    """Whether a run trains the class "none", which guides the others when pictures are drawn."""
    return config.num_classes > 0 and (config.label_dropout > 0 or bool((rows.labels < 0).any()))
