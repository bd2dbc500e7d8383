"""What every network promises to those who call it."""

from collections.abc import Callable

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train.networks.ddpmpp import DDPMPP, DDPMPPConfig
from ambient.train.networks.edm2 import EDM2, EDM2Config
from ambient.train.networks.unet import UNet, UNetConfig
from torch import Tensor, nn
from torch.testing import assert_close

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_resolutions": (8,)}


def fresh(name: str, num_classes: int = 0) -> nn.Module:
    """An untrained network for pictures of (3, 8, 8)."""
    torch.manual_seed(0)
    sizes = {"channels": 3, "resolution": 8, "num_classes": num_classes}
    return {
        "unet": lambda: UNet(UNetConfig(**SMALL), **sizes),
        "ddpmpp": lambda: DDPMPP(DDPMPPConfig(**SMALL, dropout=0.1), **sizes),
        "edm2": lambda: EDM2(EDM2Config(**SMALL, dropout=0.1), **sizes),
    }[name]().eval()


def trained(name: str, num_classes: int = 0) -> nn.Module:
    """A network that is not zero: all its weights are moved a little."""
    network = fresh(name, num_classes)
    for weight in network.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return network


def pictures(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 8, 8), torch.randn(n)


every_network = pytest.mark.parametrize("name", ["unet", "ddpmpp", "edm2"])


@every_network
def test_untrained_is_zero_and_then_every_weight_learns(name: str) -> None:
    x, c_noise = pictures(2)
    assert torch.equal(fresh(name)(x, c_noise), torch.zeros_like(x))
    network = trained(name, num_classes=3).train()
    out = network(x, c_noise, torch.tensor([0, 2])).square().sum()
    if isinstance(network, EDM2):
        out = out + network.log_variance(c_noise).square().sum()
    out.backward()
    assert [key for key, w in network.named_parameters() if w.grad is None or not w.grad.any()] == []


@every_network
def test_pictures_of_a_batch_do_not_mix(name: str) -> None:
    network, (x, c_noise), condition = trained(name, 3), pictures(4), torch.tensor([0, 1, 2, 3])
    assert_close(network(x, c_noise, condition)[2:3], network(x[2:3], c_noise[2:3], condition[2:3]))


@every_network
def test_class_and_noise_level_matter(name: str) -> None:
    network, (x, c_noise) = trained(name, 3), pictures(1)
    outputs = [network(x, c_noise, torch.tensor([c])) for c in range(4)]
    assert_close(network(x, c_noise, None), outputs[3])
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert not torch.allclose(a, b, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(network(x, c_noise + 0.3), outputs[3], rtol=1e-3, atol=1e-4)


@every_network
def test_without_classes_none_is_all_there_is(name: str) -> None:
    network, (x, c_noise) = trained(name), pictures(2)
    assert_close(network(x, c_noise, torch.zeros(2, dtype=torch.int64)), network(x, c_noise))


@every_network
def test_channels_last_changes_nothing(name: str) -> None:
    network, (x, c_noise) = trained(name), pictures(2)
    before = network(x, c_noise)
    network.to(memory_format=torch.channels_last)
    assert_close(network(x.to(memory_format=torch.channels_last), c_noise), before, rtol=1e-4, atol=1e-5)


@every_network
def test_one_graph_holds_all_of_a_training_step(name: str) -> None:
    network, (x, c_noise), condition = trained(name, 3).train(), pictures(2), torch.tensor([0, 3])
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # compiled, it draws its random numbers in another order
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)

    def output_and_gradients(forward: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = forward(x, c_noise, condition)
        out.float().square().sum().backward()
        return out.float(), torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None])

    for a, b in zip(output_and_gradients(compiled), output_and_gradients(network), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


@every_network
def test_bfloat16_is_close_to_float32(name: str) -> None:
    network, (x, c_noise) = trained(name), pictures(4)
    exact = network(x, c_noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, c_noise).float()
    assert 0 < (rough - exact).norm() < 0.03 * exact.norm()


@every_network
def test_pictures_that_cannot_be_halved_are_refused(name: str) -> None:
    network, config = {"unet": (UNet, UNetConfig), "ddpmpp": (DDPMPP, DDPMPPConfig), "edm2": (EDM2, EDM2Config)}[name]
    with pytest.raises(UserError, match="divisible by 4"):
        network(config(multipliers=(1, 1, 1)), channels=3, resolution=18)
