"""Counter-based random numbers: Philox4x32-10, so that a number depends on its name only, never on batch or order.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A stream is named by (seed, purpose, index,
name): the seed is the key; block, (purpose, index) and the 64-bit name (a picture's content id, or its global
position in training) are the four counter words. The integers are equal on every device, the normals to 1e-6.
"""

import math
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from .device import BUILDS_KERNELS

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_CHUNK = 1 << 15  # Philox blocks worked on at a time on a CPU, so that the 64-bit temporaries stay in cache


class Purpose(IntEnum):
    """What a stream is for: streams of different purposes never meet."""

    FIXED = 0  # the one noise z_i that a picture keeps for a whole run
    CURVE = 1  # noise behind p_clean; index = level and draw
    FIT = 2  # noise while the classifier trains; index = slot
    DRAW = 3  # which (row, sigma) a training picture is
    FRESH = 4  # the fresh noise e of a training picture
    AUGMENT = 5  # flips and the like
    SAMPLE = 6  # initial noise of generated pictures
    LABEL = 7  # whose label is hidden
    FOLD = 8  # which classifier a picture is held out from
    VALIDATE = 9  # noise on pictures kept out of training


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]) -> list[Tensor]:
    """Ten rounds of Philox4x32.

    counter: four int64 tensors of one broadcastable shape holding 32-bit words; key: two 32-bit words.
    Returns four int64 tensors holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # Times M - 2^32 instead of M, so that no product leaves int64: overflow is undefined to a compiler of C++, and
        # one was seen to leave the masks out.
        p0, p1 = c0 * (_M0 - 2**32), c2 * (_M1 - 2**32)
        high0, high1 = (p0 >> 32).add_(c0), (p1 >> 32).add_(c2)
        c0 = high1.bitwise_and_(_MASK) ^ (c1 ^ k0)
        c1 = p1.bitwise_and_(_MASK)
        c2 = high0.bitwise_and_(_MASK) ^ (c3 ^ k1)
        c3 = p0.bitwise_and_(_MASK)
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return [c0, c1, c2, c3]


def words(names: Tensor, count: int, *, seed: int | Tensor, purpose: Purpose, index: int | Tensor = 0) -> Tensor:
    """Random 32-bit words.

    names: (N,) int64, all 64 bits used. count: words per name. seed: a number, or () int64 on the names' device.
    index: int or (N,) int64 in [0, 2^28).
    Returns (N, count) int64 in [0, 2^32).
    """
    if names.is_cuda and _has_kernel(names.device):
        return _from_kernel(names, count, seed, purpose, index, normal=False)
    blocks = -(-count // 4)
    out = _blocks(names, blocks, seed=seed, purpose=purpose, index=index)
    shape = (len(names), blocks)
    return torch.stack([word.expand(shape) for word in out], dim=-1).reshape(len(names), -1)[:, :count]


def _blocks(names: Tensor, blocks: int, *, seed: int | Tensor, purpose: Purpose, index: int | Tensor) -> list[Tensor]:
    """The four words of each name's first blocks, each (N, blocks) or what broadcasts to it."""
    # The mask changes nothing, but keeps torch.compile from folding the counter into 32-bit index arithmetic.
    block = torch.arange(blocks, device=names.device, dtype=torch.int64)[None, :] & _MASK
    stream = _on(names.device, index).reshape(-1, 1) | (int(purpose) << 28)
    low, high = names[:, None] & _MASK, (names[:, None] >> 32) & _MASK
    return philox4x32((block, stream, low, high), (seed & _MASK, (seed >> 32) & _MASK))


def normals(names: Tensor, count: int, *, seed: int | Tensor, purpose: Purpose, index: int | Tensor = 0) -> Tensor:
    """Standard normal numbers by Box and Muller's transform of ``words``.

    Arguments as ``words``. Returns (N, count) float32.
    """
    if names.is_cuda and _has_kernel(names.device):
        return _from_kernel(names, count, seed, purpose, index, normal=True)
    blocks = -(-count // 4)
    out = torch.empty(len(names), blocks, 4, dtype=torch.float32, device=names.device)
    rows = len(names) if names.device.type != "cpu" else max(1, _CHUNK // max(blocks, 1))
    index = _on(names.device, index).expand(len(names))
    for start in range(0, len(names), rows):
        part = slice(start, start + rows)
        u0, u1, angle0, angle1 = _blocks(names[part], blocks, seed=seed, purpose=purpose, index=index[part])
        for place, (u, angle) in enumerate(((u0, angle0), (u1, angle1))):
            out[part, :, place], out[part, :, place + 2] = _box_muller(u, angle)
    return out.flatten(1)[:, :count]


def uniforms(names: Tensor, count: int, *, seed: int | Tensor, purpose: Purpose, index: int | Tensor = 0) -> Tensor:
    """Uniform numbers in (0, 1), never 0 or 1, of 52 bits. Arguments as ``words``. Returns (N, count) float64."""
    bits = words(names, 2 * count, seed=seed, purpose=purpose, index=index).view(len(names), count, 2)
    return ((bits[..., 0] << 20 | bits[..., 1] >> 12).double() + 0.5) * 2.0**-52


def name_of(content_id: str) -> int:
    """The 64-bit name of a picture's streams, as a signed integer: the first half of its content id (32 hex digits)."""
    return int.from_bytes(bytes.fromhex(content_id[:16]), "little", signed=True)


def names_of(content_ids: list[str] | pa.ChunkedArray, device: torch.device | str = "cpu") -> Tensor:
    """(N,) int64 names of pictures with these content ids, each 32 hex digits."""
    column = content_ids if isinstance(content_ids, pa.ChunkedArray) else pa.chunked_array([content_ids], pa.string())
    parts = [_half_from_hex(digits[:, :16]) for digits in hex_digits(column)]
    return torch.from_numpy(np.concatenate([*parts, np.empty(0, np.int64)])).to(device)


def hex_digits(content_ids: pa.ChunkedArray) -> Iterator[NDArray[np.uint8]]:
    """The ids' characters, (n, 32) uint8 a chunk, without a Python string for each."""
    for chunk in content_ids.chunks:
        for start in range(0, len(chunk), 1 << 20):
            fixed = chunk.slice(start, 1 << 20).cast(pa.binary()).cast(pa.binary(32))
            data = np.frombuffer(fixed.buffers()[1], np.uint8)
            yield data[32 * fixed.offset : 32 * (fixed.offset + len(fixed))].reshape(-1, 32)


def _has_kernel(device: torch.device) -> bool:
    """Inside torch.compile Triton is used anyway; outside, on what it knows: compute capability 7 and later."""
    return BUILDS_KERNELS and (torch.compiler.is_compiling() or torch.cuda.get_device_capability(device)[0] >= 7)


def _from_kernel(
    names: Tensor, count: int, seed: int | Tensor, purpose: Purpose, index: int | Tensor, *, normal: bool
) -> Tensor:
    from .philox_kernel import philox  # whose Triton takes a while, and is not everywhere

    if not isinstance(seed, Tensor):
        seed = (seed + 2**63) % 2**64 - 2**63  # all 64 bits, as a signed number
    seed = _on(names.device, seed)
    index = _on(names.device, index).expand(len(names))
    drawn: Tensor = philox(names.contiguous(), index.contiguous(), seed, count, int(purpose), normal)
    return drawn


def _on(device: torch.device, index: int | Tensor) -> Tensor:
    """As int64; a number is filled in on the device, since the copy of one would wait for what is under way there."""
    if isinstance(index, Tensor):
        return index.to(device, torch.int64)
    return torch.full((), index, device=device, dtype=torch.int64)


def _half_from_hex(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(n, 16) characters to (n,) int64, little-endian."""
    value = np.where(digits >= ord("a"), digits - (ord("a") - 10), digits - ord("0"))
    data = value[:, 0::2] << 4 | value[:, 1::2]
    return np.ascontiguousarray(data).view("<i8")[:, 0].astype(np.int64)


def _box_muller(u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals, float32, of two int64 words each."""
    turn = angle.float().mul_(2.0**-31 * math.pi)
    radius = u.float().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    return radius * torch.cos(turn), radius * torch.sin(turn)
