"""The U-Net and EDM's preconditioning around it."""

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train.networks.unet import UNet, UNetConfig
from ambient.train.precondition import Denoiser
from torch import Tensor, nn
from torch.testing import assert_close

SMALL = UNetConfig(channels=8, multipliers=(1, 2), blocks=1)


def small(num_classes: int = 0, config: UNetConfig = SMALL) -> UNet:
    """A network that is not zero: its zeroed layers get small random weights."""
    torch.manual_seed(0)
    network = UNet(config, channels=3, resolution=16, num_classes=num_classes)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return network.eval()


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        UNetConfig(channels=8, multipliers=(1,), blocks=1),
        UNetConfig(channels=24, multipliers=(1, 2, 3), blocks=2, attention_resolutions=(16,)),
    ],
)
def test_untrained_network_is_zero_and_every_weight_learns_once_it_is_not(config: UNetConfig) -> None:
    x, c_noise = torch.randn(2, 3, 16, 16), torch.randn(2)
    fresh = UNet(config, channels=3, resolution=16)
    assert torch.equal(fresh(x, c_noise), torch.zeros_like(x))
    network = small(config=config)
    network(x, c_noise).square().sum().backward()
    assert [name for name, w in network.named_parameters() if w.grad is None or not w.grad.any()] == []


def test_pictures_of_a_batch_do_not_mix() -> None:
    network, x, c_noise = small(), torch.randn(4, 3, 16, 16), torch.randn(4)
    assert_close(network(x, c_noise)[2:3], network(x[2:3], c_noise[2:3]))


def test_noise_level_and_class_matter() -> None:
    network, x = small(num_classes=3), torch.randn(1, 3, 16, 16)
    level = torch.tensor([0.1])
    outputs = [network(x, level, torch.tensor([c])) for c in range(4)]
    assert_close(network(x, level, None), outputs[3])
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(network(x, level + 0.3), network(x, level))


def test_augmentation_is_told_and_an_unchanged_picture_adds_nothing() -> None:
    x, level = torch.randn(2, 3, 16, 16), torch.zeros(2)
    network = small(config=UNetConfig(channels=8, multipliers=(1, 2), blocks=1, augment_dim=9))
    assert_close(network(x, level, augment=torch.zeros(2, 9)), network(x, level))
    assert not torch.allclose(network(x, level, augment=torch.ones(2, 9)), network(x, level))
    with pytest.raises(ValueError, match="augment_dim 0"):
        small()(x, level, augment=torch.zeros(2, 9))
    with pytest.raises(UserError, match="augment_dim"):
        UNetConfig(augment_dim=-1)


def test_channels_last_changes_nothing() -> None:
    network, x, c_noise = small(), torch.randn(2, 3, 16, 16), torch.randn(2)
    before = network(x, c_noise)
    assert_close(network.to(memory_format=torch.channels_last)(x, c_noise), before, rtol=1e-4, atol=1e-5)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="divisible by 4"):
        UNet(UNetConfig(multipliers=(1, 1, 1)), channels=3, resolution=18)
    for wrong in ({"channels": 12}, {"multipliers": ()}, {"blocks": 0}, {"dropout": 1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            UNetConfig(**wrong)  # type: ignore[arg-type]


class Constant(nn.Module):
    """A raw network that remembers its input and answers with the wanted raw output."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = raw

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        self.seen = x, c_noise, condition
        return self.raw


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_preconditioning_gives_unit_variance_in_and_out(sigma_data: float) -> None:
    """arXiv 2206.00364, appendix B.6: input and effective training target both have variance 1 at every level."""
    sigma = torch.tensor([0.01, 0.3, 1.0, 50.0])
    x0 = sigma_data * torch.randn(4, 1, 300, 300)
    x = x0 + sigma.view(-1, 1, 1, 1) * torch.randn_like(x0)
    network = Constant(torch.zeros_like(x))
    skip_only = Denoiser(network, sigma_data=sigma_data)(x, sigma)
    seen, c_noise, _ = network.seen
    assert_close(seen.flatten(1).std(1), torch.ones(4), rtol=0.02, atol=0)
    assert_close(c_noise, sigma.log() / 4)
    network.raw = torch.ones_like(x)
    c_out = (Denoiser(network, sigma_data=sigma_data)(x, sigma) - skip_only).flatten(1).mean(1)
    target = (x0 - skip_only).flatten(1).std(1) / c_out
    assert_close(target, torch.ones(4), rtol=0.02, atol=0)


def test_denoiser_takes_one_level_for_all_and_passes_the_condition() -> None:
    network = Constant(torch.randn(3, 1, 8, 8))
    denoiser, x, condition = Denoiser(network, sigma_data=0.5), torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    assert_close(denoiser(x, torch.tensor(0.7), condition), denoiser(x, torch.full((3,), 0.7), condition))
    assert network.seen[2] is condition
