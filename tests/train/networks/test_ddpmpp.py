"""DDPM++ against its published sizes and the formulas of its papers."""

import math

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train.networks.ddpmpp import DDPMPP, Attention, Block, DDPMPPConfig, Embedding
from ambient.train.networks.layout import BlockShape, Resampling, resample
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

SMALL = DDPMPPConfig(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(8,), augment_dim=9)


def num_parameters(config: DDPMPPConfig, resolution: int, num_classes: int = 0) -> int:
    with torch.device("meta"):
        network = DDPMPP(config, channels=3, resolution=resolution, num_classes=num_classes)
    return sum(weight.numel() for weight in network.parameters())


def moved(module):  # type: ignore[no-untyped-def]
    """The module with every weight moved, so that none is zero."""
    for weight in module.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return module.eval()


def test_published_sizes() -> None:
    """CIFAR-10, unconditional and conditional; FFHQ and AFHQ. Published in millions: 55.7, 55.7, 61.8."""
    cifar = DDPMPPConfig(augment_dim=9)
    assert num_parameters(cifar, 32) == 55_733_891
    assert num_parameters(cifar, 32, num_classes=10) == 55_733_891 + 128 * 10 + 128
    assert round(num_parameters(DDPMPPConfig(multipliers=(1, 2, 2, 2), augment_dim=9), 64) / 1e6, 1) == 61.8


def test_attention_is_softmax_over_positions() -> None:
    attention, x = moved(Attention(16)).double(), torch.randn(2, 16, 3, 5, dtype=torch.float64)
    query, key, value = attention.qkv(attention.norm(x).permute(0, 2, 3, 1).reshape(2, 15, 16)).split(16, dim=2)
    weights = torch.softmax(torch.einsum("nic,njc->nij", query, key) / 4, dim=2)
    mixed = attention.out(torch.einsum("nij,njc->nic", weights, value)).reshape(2, 3, 5, 16).permute(0, 3, 1, 2)
    assert_close(attention(x), (x + mixed) / math.sqrt(2))


@pytest.mark.parametrize("resampling", [None, "down", "up"])
def test_a_block_is_its_formula(resampling: Resampling | None) -> None:
    """Norm, SiLU, resampling, convolution; plus embedding; norm, SiLU, convolution; plus the resampled input."""
    block = moved(Block(BlockShape(inputs=8, outputs=8, skip=4, resampling=resampling), 16, dropout=0.5)).double()
    x, embedding = torch.randn(2, 12, 8, 8, dtype=torch.float64), torch.randn(2, 16, dtype=torch.float64)

    def normed(h: Tensor, norm: nn.GroupNorm) -> Tensor:
        groups = h.unflatten(1, (norm.num_groups, -1))
        variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)
        h = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        h = h * norm.weight[:, None, None] + norm.bias[:, None, None]
        return h * torch.sigmoid(h)

    h = functional.conv2d(resample(normed(x, block.norm1), resampling), block.conv1.weight, block.conv1.bias, padding=1)
    h = normed(h + block.shift(embedding)[:, :, None, None], block.norm2)
    h = functional.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    assert block.norm1.num_groups == 3
    assert block.norm2.num_groups == 2
    assert_close(block(x, embedding), (block.skip(resample(x, resampling)) + h) / math.sqrt(2), rtol=1e-4, atol=1e-6)


def test_embedding_is_sinusoidal() -> None:
    """Angular frequencies from 1 down to 1 / 10,000, evenly spaced in their logarithm."""
    embedding, seen = Embedding(8, 0, 0), list[Tensor]()
    embedding.layer1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    c_noise = torch.tensor([-1.5, 1.1])
    embedding(c_noise, None, None)
    angles = c_noise[:, None] * torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4])
    assert_close(seen[0], torch.cat([angles.sin(), angles.cos()], dim=1))


def test_embedding_tells_close_levels_apart_under_autocast() -> None:
    embedding = Embedding(128, 0, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = embedding(torch.tensor([0.5, 0.5001]), None, None)
    assert a.dtype == torch.float32
    assert (a != b).float().mean() > 0.9


def test_augmentation_matters_and_unchanged_is_zero() -> None:
    torch.manual_seed(0)
    network, x, c_noise = moved(DDPMPP(SMALL, channels=3, resolution=8)), torch.randn(2, 3, 8, 8), torch.randn(2)
    plain = network(x, c_noise)
    assert_close(network(x, c_noise, augment=torch.zeros(2, 9)), plain)
    network(x, c_noise, augment=torch.ones(2, 9)).sum().backward()
    assert not torch.allclose(network(x, c_noise, augment=torch.ones(2, 9)), plain, rtol=1e-3)
    assert network.embedding.augment.weight.grad.any()
    without = DDPMPP(DDPMPPConfig(channels=8), channels=3, resolution=8)
    with pytest.raises(ValueError, match="augment_dim 0"):
        without(x, c_noise, augment=torch.zeros(2, 9))
    with pytest.raises(UserError, match="augment_dim"):
        DDPMPPConfig(augment_dim=-1)


def test_first_weights_have_their_variances() -> None:
    """Xavier-uniform: 2 / (inputs + outputs); queries, keys and values 0.1 / channels; output layers 0."""
    network = DDPMPP(DDPMPPConfig(channels=64, multipliers=(2,), blocks=1), channels=3, resolution=16)
    block = network.up[0]
    assert_close(block.conv1.weight.var().item(), 2 / (9 * (128 + 128)), rtol=0.03, atol=0)
    assert_close(block.attention.qkv.weight.var().item(), 0.1 / 128, rtol=0.03, atol=0)
    for layer in (block.conv2, block.attention.out, network.last):
        assert not layer.weight.any()
