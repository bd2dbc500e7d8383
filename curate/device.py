"""Which device the heavy work runs on, and how."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from ..schemas.errors import UserError


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA when there is one. Raises UserError when the device asked for is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {name!r} was asked for, but PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return device


def missing_to_compile(device: torch.device) -> str | None:
    """What ``torch.compile`` looks for here in vain. For a GPU that is Triton, which builds with a C compiler."""
    if device.type == "cpu":
        return None if _found("CXX", "g++") else "C++ compiler (g++)"
    if find_spec("triton") is None:
        return "Triton"
    if not _found("CC", "gcc", "clang"):
        return "C compiler (gcc or clang)"
    return None if Path(sysconfig.get_path("include"), "Python.h").exists() else "Python.h (python3-dev)"


def _found(variable: str, *programs: str) -> bool:
    return variable in os.environ or any(map(shutil.which, programs))


BUILDS_KERNELS = missing_to_compile(torch.device("cuda")) is None
"""Whether kernels of our own could be built for a GPU here."""


@contextmanager
def fast_matmul(device: torch.device) -> Iterator[None]:
    """On CUDA, products of float32 matrices by tensor cores (TF32, 10 bits of mantissa) while this lasts."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
