"""Losses of a batch and the gradients of their mean: on a GPU recorded once, then replayed without Python."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..curate.replay import Replayed
from .batches import Batch
from .device import compiling

LossOf = Callable[[Batch, Tensor], dict[str, Tensor]]
"""A batch and its pictures (B, C, R, R) to losses (B,) by name; what is ``trained`` has the gradients."""

_MEMORY_SHARE = 0.5  # of the GPU's that steps may take for the recorded one, which keeps its own for good


class Backward:
    """Adds the gradients of the mean ``trained`` loss of a batch to the weights, and returns the losses, detached.

    On CUDA the kernels of the fourth step are recorded as a CUDA graph, from noise to gradients, and replayed from then
    on. A small network's step is otherwise bound by Python, which launches some thousand kernels one by one.
    """

    def __init__(self, loss_of: LossOf, weights: Sequence[nn.Parameter], device: torch.device, *, record: bool) -> None:
        """record: whether to; every batch must then have as many pictures and find no gradients in the weights."""
        self._loss_of, self._weights, self._device, self._record = loss_of, weights, device, record
        self._shapes: set[torch.Size] = set()
        self._kept: tuple[Batch, Tensor] | None = None
        self._losses: dict[str, Tensor] = {}
        self._gradients: list[Tensor | None] = []
        self._replayed = Replayed(self._again, device)

    def __call__(self, batch: Batch, w0: Tensor, of: int) -> dict[str, Tensor]:
        """of: pictures over which the mean is, those of this batch and of others whose gradients are added up."""
        if self._record and self._replayed.is_next_recorded and not _has_room(self._device):
            self._record = False
        if not self._record:
            return self._run(batch, w0, of)
        if self._kept is None:
            columns: dict[str, Any] = {
                name: None if column is None else column.clone() for name, column in _columns(batch).items()
            }
            self._kept = Batch(**columns), w0.clone()
        else:
            kept, pictures = self._kept
            for name, column in _columns(batch).items():
                if column is not None:
                    getattr(kept, name).copy_(column)
            pictures.copy_(w0)
        self._replayed()
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        return self._losses

    def _again(self) -> None:
        """What is recorded."""
        assert self._kept is not None
        batch, w0 = self._kept
        for weight in self._weights:
            weight.grad = None  # so that a gradient is written, not added to the last one
        self._losses = self._run(batch, w0, len(w0))
        self._gradients = [weight.grad for weight in self._weights]

    def _run(self, batch: Batch, w0: Tensor, of: int) -> dict[str, Tensor]:
        with nullcontext() if w0.shape in self._shapes else compiling():  # each shape is compiled by itself
            losses = self._loss_of(batch, w0)
            (losses["trained"].sum() / of).backward()  # type: ignore[no-untyped-call]
        self._shapes.add(w0.shape)
        return {name: loss.detach() for name, loss in losses.items()}


def _has_room(device: torch.device) -> bool:
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) <= _MEMORY_SHARE * total


def _columns(batch: Batch) -> dict[str, Any]:
    return {field.name: getattr(batch, field.name) for field in fields(batch)}
