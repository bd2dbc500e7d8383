"""Dropout by hashing is dropout: the right share, scale and gradient, and nothing else to see in its masks."""

import numpy as np
import pytest
import torch
from ambient.train.networks.dropout import Dropout, hashed
from scipy import stats
from torch import Tensor


def masks(p: float, calls: int, *shape: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    dropout = Dropout(p).train()
    return torch.stack([dropout(torch.ones(shape)) for _ in range(calls)])


@pytest.mark.parametrize("p", [0.1, 0.13, 0.5, 0.9])
def test_share_and_scale(p: float) -> None:
    found = masks(p, 8, 4, 16, 32, 32)
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - p))}
    kept = (found > 0).double().mean(dim=(1, 2, 3, 4))
    assert ((kept - (1 - p)).abs() < 5 * (p * (1 - p) / found[0].numel()) ** 0.5).all()


def test_off_when_evaluating_or_at_zero() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


def test_gradient_passes_where_values_did() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 64, requires_grad=True)
    y = Dropout(0.3).train()(x)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, torch.tensor(1.0) / 0.7))


def test_the_seed_decides() -> None:
    assert torch.equal(masks(0.5, 2, 1000), masks(0.5, 2, 1000))
    assert not torch.equal(masks(0.5, 2, 1000), masks(0.5, 2, 1000, seed=1))


def test_entries_and_calls_are_independent() -> None:
    """Of 400 calls: no two entries, near or a power of two apart, and no two calls agree more than by chance."""
    kept = (masks(0.5, 400, 4096) > 0).double().numpy() * 2 - 1
    for apart in (1, 2, 3, 8, 16, 64, 256, 1024, 2048):
        agreement = (kept[:, apart:] * kept[:, :-apart]).mean()
        assert abs(agreement) < 5 / np.sqrt(kept[:, apart:].size), apart
    between = kept @ kept.T / kept.shape[1]
    off = between[~np.eye(400, dtype=bool)]
    assert np.abs(off).max() < 5.5 / np.sqrt(4096)
    assert abs(off.std() * np.sqrt(4096) - 1) < 0.03
    counts = (kept > 0).sum(axis=1)
    assert stats.kstest((counts - 2048) / 32, "norm").pvalue > 0.001


def test_every_bit_matters() -> None:
    """Turning one bit of the place or of the first seed turns each bit of the word about half of the time."""
    words = torch.randint(-(2**31), 2**31, (3, 20_000), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    for which in range(2):
        for bit in range(32):
            turned = words.clone()
            turned[which] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
            changed = hashed(*words) ^ hashed(*turned)
            share = torch.stack([((changed >> k) & 1).double().mean() for k in range(31)])  # the sign is not used
            assert (share - 0.5).abs().mean() < 0.06, (which, bit)
            assert (share > 0.1).all(), (which, bit)
