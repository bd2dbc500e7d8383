"""How the device is used."""

import ctypes
import resource

import pytest
import torch
from ambient.train.device import use_fast_kernels


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_used_again() -> None:
    use_fast_kernels(torch.device("cpu"))
    for _ in range(10):  # small blocks find their places
        torch.ones(16_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(16_000_000)  # 64 MB: 15,625 pages
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000
