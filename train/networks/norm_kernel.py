"""What turns the moments of channels into GroupNorm's scale and shift, and its derivative: one kernel each, on a GPU.

Between its reductions over pixels a GroupNorm does a dozen things to small tables, and its derivative two dozen. A
compiler looks at each of them for each norm of a network, and that is a good part of the time that it takes.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton


@triton.jit
def _moments(total, squares, share, eps, at, mask):  # type: ignore[no-untyped-def]
    """The mean of each group, (ROWS, 1), whether its variance is above 0, and one over its deviation."""
    mean = tl.sum(tl.load(total + at, mask, 0.0), axis=1, keep_dims=True) * share
    variance = tl.sum(tl.load(squares + at, mask, 0.0), axis=1, keep_dims=True) * share - mean * mean
    return mean, variance > 0, 1.0 / tl.sqrt_rn(tl.maximum(variance, 0.0) + eps)


@triton.jit  # type: ignore[untyped-decorator]
def forward_kernel(  # type: ignore[no-untyped-def]
    scale, shift, total, squares, weight, bias, share, eps,
    GROUPS: tl.constexpr, EACH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    share, eps = tl.full((1, 1), share, tl.float32), tl.full((1, 1), eps, tl.float32)  # of Inductor, float64
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    channel, mask = row * EACH + column, (row < GROUPS) & (column < EACH)
    at = tl.program_id(0) * GROUPS * EACH + channel
    mean, _, inverse = _moments(total, squares, share, eps, at, mask)
    found = inverse * tl.load(weight + channel, mask, 0.0)
    tl.store(scale + at, found, mask)
    tl.store(shift + at, tl.load(bias + channel, mask, 0.0) - mean * found, mask)


@triton.jit  # type: ignore[untyped-decorator]
def backward_kernel(  # type: ignore[no-untyped-def]
    to_total, to_squares, to_weight, to_scale, to_shift, total, squares, weight, share, eps,
    GROUPS: tl.constexpr, EACH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    share, eps = tl.full((1, 1), share, tl.float32), tl.full((1, 1), eps, tl.float32)  # of Inductor, float64
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    channel, mask = row * EACH + column, (row < GROUPS) & (column < EACH)
    at = tl.program_id(0) * GROUPS * EACH + channel
    mean, varies, inverse = _moments(total, squares, share, eps, at, mask)
    gamma, shifted = tl.load(weight + channel, mask, 0.0), tl.load(to_shift + at, mask, 0.0)
    scaled = tl.load(to_scale + at, mask, 0.0) - mean * shifted  # shift = bias - mean * scale
    to_inverse = tl.sum(scaled * gamma, axis=1, keep_dims=True)
    to_variance = tl.where(varies, -0.5 * inverse * inverse * inverse * to_inverse, 0.0)
    to_mean = -inverse * tl.sum(shifted * gamma, axis=1, keep_dims=True) - 2.0 * mean * to_variance
    nothing = tl.zeros((ROWS, COLUMNS), tl.float32)
    tl.store(to_total + at, nothing + to_mean * share, mask)
    tl.store(to_squares + at, nothing + to_variance * share, mask)
    tl.store(to_weight + at, scaled * inverse, mask)


def scale_and_shift(
    total: Tensor, squares: Tensor, weight: Tensor, bias: Tensor, groups: int, pixels: int, eps: float
) -> tuple[Tensor, Tensor]:
    """(N, C) each: what GroupNorm (arXiv 1803.08494) multiplies a map's channels by, and then adds to them.

    total, squares: (N, C) float32, sums over the pixels of a map's values and of their squares. weight, bias: (C,)
    float32. All contiguous, on the current GPU, as in compiled code. Has a derivative with respect to these four.
    """
    found: tuple[Tensor, Tensor] = forward(total, squares, weight, bias, groups, pixels, eps)
    return found


@triton_op("ambient::norm_forward", mutates_args=())
def forward(
    total: Tensor, squares: Tensor, weight: Tensor, bias: Tensor, groups: int, pixels: int, eps: float
) -> tuple[Tensor, Tensor]:
    scale, shift = launched(wrap_triton(forward_kernel), 2, (total, squares, weight, bias), groups, pixels, eps)
    return scale, shift


@triton_op("ambient::norm_backward", mutates_args=())
def backward(
    to_scale: Tensor,
    to_shift: Tensor,
    total: Tensor,
    squares: Tensor,
    weight: Tensor,
    groups: int,
    pixels: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives with respect to total, squares, and each map's with respect to the weight, (N, C) each."""
    given = to_scale, to_shift, total, squares, weight
    to_total, to_squares, to_weight = launched(wrap_triton(backward_kernel), 3, given, groups, pixels, eps)
    return to_total, to_squares, to_weight


def launched(
    kernel: Any, outputs: int, inputs: tuple[Tensor, ...], groups: int, pixels: int, eps: float
) -> list[Tensor]:
    """What this form of a kernel makes of these inputs, the first of which is (N, C), as all outputs are."""
    n, channels = inputs[0].shape
    each = channels // groups
    out = [torch.empty_like(inputs[0]) for _ in range(outputs)]
    padded = {"ROWS": triton.next_power_of_2(groups), "COLUMNS": triton.next_power_of_2(each)}
    kernel[(n,)](*out, *inputs, 1 / (each * pixels), eps, GROUPS=groups, EACH=each, **padded)
    return out


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    total, squares, weight, _, ctx.groups, ctx.pixels, ctx.eps = inputs
    ctx.save_for_backward(total, squares, weight)


def _derivative(ctx: Any, to_scale: Tensor, to_shift: Tensor) -> tuple[Tensor | None, ...]:
    told = ctx.groups, ctx.pixels, ctx.eps
    to_shift = to_shift.contiguous()
    total, squares, weight = backward(to_scale.contiguous(), to_shift, *ctx.saved_tensors, *told)
    return total, squares, weight.sum(dim=0), to_shift.sum(dim=0), None, None, None


forward.register_autograd(_derivative, setup_context=_keep)
