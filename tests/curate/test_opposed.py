"""Pairs of noise: each white and Gaussian, together nearly without error."""

import numpy as np
import pytest
import torch
from ambient.curate.opposed import opposed, rings
from fields import Fields
from scipy import fft, stats
from torch import Tensor


def pairs(num: int, channels: int, side: int, seed: int = 0) -> Tensor:
    white = torch.randn(num, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return opposed(white, rings(channels, side))


@pytest.mark.parametrize("side", [1, 4, 7, 32, 100])
def test_rings_hold_every_frequency_once(side: int) -> None:
    found = rings(3, side)
    assert (found.members.sum(dim=1) == 1).all()
    assert (found.members.sum(dim=0) >= min(6, side * side)).all()
    radius = torch.hypot(*(i.flatten().float() for i in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")))
    assert (found.members.argmax(dim=1)[radius.argsort(stable=True)].diff() >= 0).all()


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize(("channels", "side"), [(1, 16), (3, 8)])
def test_each_of_a_pair_is_white_and_gaussian(member: int, channels: int, side: int) -> None:
    noise = pairs(20_000, channels, side)[:, member]
    assert stats.kstest(noise[:, 0, 1, 2].numpy(), "norm").pvalue > 0.01
    flat = noise.flatten(1)
    torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(flat.shape[1]), rtol=0, atol=0.05)
    assert abs(float((noise**4).mean()) - 3) < 0.02
    energy = fft.dctn(noise[:, 0].numpy(), axes=(1, 2), norm="ortho") ** 2
    if channels == 3:  # of luminance
        energy = fft.dctn(noise.sum(dim=1).numpy() / np.sqrt(3), axes=(1, 2), norm="ortho") ** 2
    for members in rings(channels, side).members.T.numpy():
        mine, size = energy.reshape(len(energy), -1) @ members, int(members.sum())
        assert stats.kstest(mine, stats.chi2(size).cdf).statistic < 0.02
        assert mine.mean() == pytest.approx(size, rel=5 * np.sqrt(2 / size / len(mine)))


def test_energies_of_a_pair_are_opposite_in_every_ring() -> None:
    both = fft.dctn(pairs(300, 1, 16)[:, :, 0].numpy(), axes=(2, 3), norm="ortho").reshape(300, 2, -1) ** 2
    for members in rings(1, 16).members.T.numpy():
        first, second = both[:, 0] @ members, both[:, 1] @ members
        assert stats.spearmanr(first, second).statistic == pytest.approx(-1, abs=1e-6)
        share = stats.chi2(members.sum()).cdf
        np.testing.assert_allclose(share(first) + share(second), 1, atol=0.02)


@pytest.mark.parametrize(("blur", "sigma"), [(0.5, 1.0), (1.0, 1.5), (2.0, 2.0)])
def test_a_pair_says_as_much_as_many_draws(blur: float, sigma: float) -> None:
    """The best classifier of Gaussian fields near its crossing: the variance of a mean of two, against two that are
    independent, and against a noise and its negative, which err together."""
    fields = Fields(resolution=32)
    w0 = fields.draw(1, blur=blur, seed=3)
    noise = pairs(1000, 1, 32)

    def found(z: Tensor) -> Tensor:
        return torch.sigmoid(fields.optimal_logit(w0 + sigma * z, torch.tensor([sigma]), blurs=[0.5, 1.0, 2.0]))

    first, second, negative = found(noise[:, 0]), found(noise[:, 1]), found(-noise[:, 0])
    independent = first.var() / 2
    assert ((first + second) / 2).var() < independent / 5
    assert ((first + negative) / 2).var() > independent
    assert abs(float(first.mean() - second.mean())) < 4 * float((first.var() / 500).sqrt())
