"""Philox and Box and Muller's transform in one kernel, for GPUs: what ``noise`` has as a hundred.

Part of ``curate/noise.py``, which says what the numbers are. Written in Triton, which comes with PyTorch for GPUs.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

_MOST, _LEAST = 1024, 32  # Philox blocks, of four numbers each, of one program of the kernel


@triton.jit  # type: ignore[untyped-decorator]
def kernel(out, names, index, seed, count, PURPOSE: tl.constexpr, NORMAL: tl.constexpr, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    name, stream = tl.load(names + row), tl.load(index + row) | (PURPOSE << 28)
    zero = (block * 0).to(tl.uint32)
    c1, c2, c3 = zero + stream.to(tl.uint32), zero + name.to(tl.uint32), zero + (name >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(tl.load(seed), block.to(tl.uint32), c1, c2, c3)
    if NORMAL:
        r0 = tl.sqrt_rn(tl.log((w0.to(tl.float32) + 0.5) * 2.0**-32) * -2.0)
        r1 = tl.sqrt_rn(tl.log((w1.to(tl.float32) + 0.5) * 2.0**-32) * -2.0)
        t0, t1 = w2.to(tl.float32) * 1.4629180792671596e-09, w3.to(tl.float32) * 1.4629180792671596e-09  # pi / 2^31
        n0, n1, n2, n3 = r0 * tl.cos(t0), r1 * tl.cos(t1), r0 * tl.sin(t0), r1 * tl.sin(t1)
    else:
        n0, n1, n2, n3 = w0.to(tl.int64), w1.to(tl.int64), w2.to(tl.int64), w3.to(tl.int64)
    four = tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))  # in the order of a block
    place = tl.program_id(1) * BLOCKS * 4 + tl.arange(0, BLOCKS * 4)
    tl.store(out + row * count + place, four, mask=place < count)


@triton_op("ambient::philox", mutates_args=())
def philox(names: Tensor, index: Tensor, seed: Tensor, count: int, purpose: int, normal: bool) -> Tensor:
    """``words`` or, if normal, ``normals`` of these streams.

    names, index: (N,) int64. seed: () int64. All on one GPU. Returns (N, count), int64 words or float32 normals.
    """
    return launched(wrap_triton(kernel), names, index, seed, count, purpose, normal)


def launched(
    function: Any, names: Tensor, index: Tensor, seed: Tensor, count: int, purpose: int, normal: bool
) -> Tensor:
    """``philox`` by this form of the kernel."""
    out = torch.empty(len(names), count, dtype=torch.float32 if normal else torch.int64, device=names.device)
    blocks = -(-count // 4)
    at_once = min(_MOST, max(_LEAST, triton.next_power_of_2(blocks)))
    if out.numel():
        # Triton launches on the current device, whatever its arguments are on.
        grid = (len(names), triton.cdiv(blocks, at_once))
        with torch.cuda.device(out.device) if out.is_cuda and torch.cuda.is_available() else nullcontext():
            function[grid](out, names, index, seed, count, PURPOSE=purpose, NORMAL=normal, BLOCKS=at_once)
    return out
