"""GroupNorm against PyTorch's, in float64."""

import pytest
import torch
from ambient.train.networks.norm import GroupNorm
from torch.nn import functional
from torch.testing import assert_close


@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize("mean", [0.0, 20.0, -300.0])
def test_group_norm_far_from_zero(mean: float, moments: bool) -> None:
    """Of values rounded to bfloat16: forward and gradient; a constant picture stays finite."""
    torch.manual_seed(0)
    norm = GroupNorm(4, 16, eps=1e-6)
    for weight in norm.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    x = (mean + torch.randn(2, 16, 8, 8) * (1 + abs(mean) / 20)).bfloat16().float()
    x[1] = mean + torch.rand(4).repeat_interleave(4)[:, None, None]
    mine, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    weights = norm.weight.double(), norm.bias.double()
    expected = functional.group_norm(exact, norm.num_groups, *weights, eps=norm.eps)
    found, direction = norm.by_moments(mine) if moments else norm(mine), torch.randn(x.shape)
    assert_close(found[0].double(), expected[0], rtol=1e-4, atol=1e-3)
    assert found.isfinite().all()
    (gradient,) = torch.autograd.grad(found[0], mine, direction[0])
    (reference,) = torch.autograd.grad(expected[0], exact, direction[0].double())
    assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("moments", [False, True])
def test_mixed_types_and_layouts(moments: bool) -> None:
    """bfloat16 maps and weights, as a network spread over GPUs has them, channels-last: float32 comes out."""
    torch.manual_seed(0)
    norm = GroupNorm(2, 8).bfloat16()
    x = torch.randn(3, 8, 4, 6).bfloat16().to(memory_format=torch.channels_last)
    found = norm.by_moments(x) if moments else norm(x)
    assert found.dtype == torch.float32
    assert_close(found, functional.group_norm(x.float(), 2), rtol=1e-4, atol=1e-5)
