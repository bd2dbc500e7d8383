"""Blocks of a U-Net, resampling, classes."""

import numpy as np
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train.networks.ddpmpp import DDPMPPConfig
from ambient.train.networks.edm2 import EDM2Config
from ambient.train.networks.layout import BlockShape, Sizes, blocks_down, blocks_up, one_hot, resample
from scipy.signal import convolve2d
from torch.nn import functional
from torch.testing import assert_close

TWO_LEVELS = Sizes(channels=8, multipliers=(2, 3), blocks=1, attention_resolutions=(16,), dropout=0.0)


def test_blocks_of_two_levels_are_those_drawn_by_hand() -> None:
    """Of 16x16 pictures: maps of 8 (the first convolution), 16, 16 and 24 channels are kept on the way down."""
    assert blocks_down(TWO_LEVELS, 16) == [
        BlockShape(inputs=8, outputs=16, attend=True),
        BlockShape(inputs=16, outputs=16, resampling="down"),
        BlockShape(inputs=16, outputs=24),
    ]
    assert blocks_up(TWO_LEVELS, 16, attend_last_only=True) == [
        BlockShape(inputs=24, outputs=24, attend=True),
        BlockShape(inputs=24, outputs=24),
        BlockShape(inputs=24, outputs=24, skip=24),
        BlockShape(inputs=24, outputs=24, skip=16),
        BlockShape(inputs=24, outputs=24, resampling="up"),
        BlockShape(inputs=24, outputs=16, skip=16),
        BlockShape(inputs=16, outputs=16, skip=8, attend=True),
    ]


def test_attention_of_the_published_networks() -> None:
    """DDPM++: each block of 16x16 going down, the last going up. EDM2: all at 16 and 8. Both: the middle's first."""
    cifar, latent = DDPMPPConfig(), EDM2Config()
    assert [shape.attend for shape in blocks_down(cifar, 32)] == [False] * 5 + [True] * 4 + [False] * 5
    assert [i for i, shape in enumerate(blocks_up(cifar, 32, attend_last_only=True)) if shape.attend] == [0, 12]
    assert sum(shape.attend for shape in blocks_down(latent, 64)) == 6
    assert sum(shape.attend for shape in blocks_up(latent, 64, attend_last_only=False)) == 1 + 8


def test_resampling_is_the_box_filter() -> None:
    """Down: filtered by [1, 1]/2 in both directions, every second kept. Up: zeros in between, filtered by [1, 1]."""
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    filtered = [[convolve2d(c, np.full((2, 2), 0.25), mode="valid")[::2, ::2] for c in n] for n in x.numpy()]
    assert_close(resample(x, "down"), torch.tensor(np.array(filtered)))
    spread = np.zeros((2, 3, 12, 16))
    spread[:, :, ::2, ::2] = x.numpy()
    filtered = [[convolve2d(c, np.ones((2, 2)))[:12, :16] for c in n] for n in spread]
    assert_close(resample(x, "up"), torch.tensor(np.array(filtered)))
    assert resample(x, None) is x


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_doubling_compiled(memory_format: torch.memory_format) -> None:
    """Another formula, the same values and derivative; memory in the order that convolutions want."""
    x = torch.randn(2, 3, 6, 8).to(memory_format=memory_format).requires_grad_()
    up = torch.compile(resample, backend="aot_eager")(x, "up")
    assert up.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(up, functional.interpolate(x, scale_factor=2.0))
    weights = torch.randn_like(up)
    (derivative,) = torch.autograd.grad(up, x, weights)
    assert_close(derivative, 4 * functional.avg_pool2d(weights, 2))


def test_none_is_a_row_of_zeros() -> None:
    like = torch.empty(3)
    assert one_hot(torch.tensor([1, 2, 0]), 2, like).tolist() == [[0, 1], [0, 0], [1, 0]]
    assert one_hot(None, 2, like).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(
    "wrong", [{"channels": 12}, {"channels": 0}, {"multipliers": ()}, {"multipliers": (0,)}, {"blocks": 0}]
)
def test_wrong_sizes_are_refused(wrong: dict[str, object]) -> None:
    for config in (DDPMPPConfig, EDM2Config):
        with pytest.raises(UserError, match=next(iter(wrong))):
            config(**wrong)  # type: ignore[arg-type]


def test_dropout_and_resolution_are_checked() -> None:
    for dropout in (-0.1, 1.0):
        with pytest.raises(UserError, match="dropout"):
            EDM2Config(dropout=dropout)
    with pytest.raises(UserError, match=r"divisible by 8, and 36 is not: .* network.multipliers=1,2,3$"):
        EDM2Config().check_resolution(36)
    EDM2Config().check_resolution(40)
