"""How the network runs on its device: number format, compilation, kernels, memory."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from ..curate.device import choose_device
from ..schemas.errors import UserError
from .config import TrainConfig

_COMPILING_PAYS = 1_000_000  # training pictures


def device_of_process(name: str) -> torch.device:
    """The device asked for; under torchrun ``auto`` and ``cuda`` mean the GPU of this process (LOCAL_RANK).

    Raises UserError where it is not there.
    """
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    return choose_device(name)


def uses_bf16(device: torch.device, precision: str) -> bool:
    """precision: ``fp32``, ``bf16``, or ``auto``, which is bf16 on CUDA."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which the network runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def should_compile(device: torch.device, choice: str, num_images: int) -> bool:
    """Whether to compile the network. choice: ``on``, ``off``, or ``auto``: on CUDA, for so many pictures that it pays.

    On one H200 the preset ``small`` took 85 s to compile and then 0.17 ms instead of 0.35 ms a picture.
    """
    return choice == "on" or (choice == "auto" and device.type == "cuda" and num_images >= _COMPILING_PAYS)


def use_fast_kernels(device: torch.device) -> None:
    """Let CUDA choose the fastest convolutions, and TF32 for what stays in float32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True


@contextmanager
def out_of_memory_explained(config: TrainConfig) -> Iterator[None]:
    """Turn a GPU out of memory into a UserError of one line."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        now = config.micro_batch or config.batch_size
        raise UserError(
            f"the GPU has too little memory for {now} pictures at a time: add `--set micro_batch={max(1, now // 2)}`, "
            "which changes nothing but speed, or train on more GPUs with `--set sharding=fsdp`"
        ) from error
