"""GroupNorm's kernels for GPUs against the formula: by Triton's interpreter, and on a GPU as the compiler uses them."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from ambient.train.networks.norm import GroupNorm

COMPARE = """
import torch
from ambient.train.networks import norm_kernel as kernels
from ambient.train.networks.norm import GroupNorm

torch.manual_seed(0)
for channels, groups, pixels in ((16, 4, 64), (384, 32, 16), (48, 12, 9), (128, 32, 4)):
    norm = GroupNorm(groups, channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, channels, pixels) * torch.rand(3, channels, 1) + torch.randn(3, channels, 1)
    total, squares = (values.sum(dim=2).requires_grad_() for values in (x, x * x))
    expected = norm._scale_and_shift(total, squares, pixels)
    weights = [torch.randn_like(values) for values in expected]
    loss = sum((value * weight).sum() for value, weight in zip(expected, weights))
    derivatives = torch.autograd.grad(loss, [total, squares, norm.weight])
    told = groups, pixels, norm.eps
    with torch.no_grad():
        given = total, squares, norm.weight
        found = kernels.launched(kernels.forward_kernel, 2, (*given, norm.bias), *told)
        *back, to_weight = kernels.launched(kernels.backward_kernel, 3, (*weights, *given), *told)
    for a, b in zip((*found, *back, to_weight.sum(dim=0)), (*expected, *derivatives)):
        scale = b.abs().mean(dim=-1, keepdim=True)
        torch.testing.assert_close(a / scale, b / scale, rtol=1e-4, atol=1e-4)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for GPUs")
def test_kernels_and_formula_agree() -> None:
    """Triton reads TRITON_INTERPRET when it is imported."""
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    found = subprocess.run([sys.executable, "-c", COMPARE], env=variables, capture_output=True, text=True)
    assert found.stdout == "equal\n", found.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_on_a_gpu_it_is_group_norm(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    norm = GroupNorm(32, 384, device="cuda")
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    compiled = copy.deepcopy(norm)
    compiled.compile(dynamic=False, fullgraph=True)
    x = torch.randn(8, 384, 16, 16, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    found = []
    for module in (norm, compiled):
        inputs = x.clone().requires_grad_()
        out = module(inputs)
        out.backward(torch.linspace(-1, 1, out.numel(), device="cuda", dtype=out.dtype).view_as(out))
        found.append((out, inputs.grad, module.weight.grad, module.bias.grad))
    for a, b in zip(*found, strict=True):
        tolerance = 2e-2 if b.dtype == torch.bfloat16 else 1e-3
        torch.testing.assert_close(
            a / b.abs().max(), b / b.abs().max(), rtol=tolerance, atol=tolerance, check_dtype=False
        )
