"""How the network runs on its device: number format, compilation, kernels, memory."""

import ctypes
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from torch._functorch import config as partitioner

from ..curate.device import choose_device, missing_to_compile
from ..schemas.errors import UserError

_COMPILING_PAYS = 1_000_000  # training pictures
# Searches of the compiler that take a fifth of its time, for 2 % of a step's at most, if anything.
_NOT_SEARCHED = ("loop_ordering_after_fusion", "triton.coalesce_tiling_analysis", "triton.autotune_pointwise")
_CUDNN_TRIALS = 3  # algorithms that are timed for each convolution; PyTorch's 10 find none that is faster
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


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


def should_compile(
    device: torch.device, choice: str, num_images: int, say: Callable[[str], None] = lambda _: None
) -> bool:
    """Whether to compile the network. choice: ``on``, ``off``, or ``auto``: on CUDA, for so many pictures that it pays,
    where the machine has what that takes; what it lacks is said. Raises UserError where that is asked for, but lacking.

    On one H200 the preset ``small`` took 85 s to compile and then 0.17 ms instead of 0.35 ms a picture.
    """
    if choice == "off" or (choice == "auto" and (device.type != "cuda" or num_images < _COMPILING_PAYS)):
        return False
    missing = missing_to_compile(device)
    if missing and choice == "on":
        raise UserError(f"compile=on: no {missing} was found: install it, or set compile=off")
    if missing:
        say(f"not compiled, which would be faster: no {missing} was found")
    return not missing


def compile_network(network: nn.Module, options: Mapping[str, object] | None = None) -> None:
    """Have the network compiled when it is first called, for fixed shapes.

    options: of ``torch._inductor.config``, to try out.
    """
    known = torch._inductor.list_options()
    less = {name: False for name in _NOT_SEARCHED if name in known}
    network.compile(dynamic=False, options={**less, **(options or {})})


@contextmanager
def compiling() -> Iterator[None]:
    """What the first step of each shape runs in, which compiles the network.

    Python looks for garbage among young objects only: the compiler makes millions that stay, and to look at them again
    and again takes a seventh of its time. And the way back may compute anew what the way forward uses far apart:
    otherwise the compiler keeps a float32 copy of every map that a GroupNorm takes (39 instead of 22 GiB, preset
    ``cifar10``).
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 1000)
    try:
        known = {"ban_recompute_used_far_apart": False} if hasattr(partitioner, "ban_recompute_used_far_apart") else {}
        with partitioner.patch(known):
            yield
    finally:
        gc.set_threshold(*thresholds)


def use_fast_kernels(device: torch.device) -> None:
    """Let CUDA choose the fastest convolutions, and TF32 for what stays in float32; on a CPU, keep freed memory."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.benchmark_limit = _CUDNN_TRIALS
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True
    else:
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one, instead of giving it to the kernel and asking for it again.

    Preset ``smoke`` met 35,000 page faults a step, a sixth of its time, and more on a machine short of memory.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # other C libraries have none
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def memory_for(what: str, remedy: str, device: torch.device) -> Iterator[None]:
    """Turn a lack of memory into a UserError of one line that names ``what`` it was wanted for and the remedy."""
    try:
        yield
    except RuntimeError as error:  # cuBLAS and the CPU's allocator have no type of their own for it
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise UserError(f"{device} has too little memory for {what}: {remedy}") from error
