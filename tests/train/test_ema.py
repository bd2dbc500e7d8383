"""Power-function averages against their definition, and reconstruction against an average that was really kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train import ema


def profile(gamma: float, end: int) -> np.ndarray:
    """Weights of moments 1 ... end in an average whose weight rises as t^gamma."""
    weights = (np.arange(1, end + 1) / end) ** gamma
    return weights / weights.sum()


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_gives_the_relative_spread_asked_for(sigma_rel: float) -> None:
    weights = profile(ema.gamma_of(sigma_rel), 200_000)
    t = np.arange(1, 200_001) / 200_000
    mean = (weights * t).sum()
    assert np.sqrt((weights * (t - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-3)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1])
def test_updates_weigh_every_moment_by_the_power_function(sigma_rel: float) -> None:
    """Against the definition: the average of unit vectors is the profile itself."""
    steps, batch = 400, 7
    average = torch.zeros(steps, dtype=torch.float64)
    for step in range(steps):
        weights = torch.zeros(steps, dtype=torch.float64)
        weights[step] = 1
        ema.update([average], [weights], ema.decay((step + 1) * batch, batch, sigma_rel))
    assert float(average.sum()) == pytest.approx(1)
    expected = profile(ema.gamma_of(sigma_rel), steps)
    assert np.abs(average.numpy() - expected).sum() < 0.05  # eq. 127 discretises the integral


@pytest.mark.parametrize("wanted", [0.04, 0.07, 0.15])
def test_any_length_is_rebuilt_from_two_that_were_stored(tmp_path: Path, wanted: float) -> None:
    """Weights walk at random; two averages are stored 32 times; a third is kept alongside and compared."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(50)
    kept = {std: torch.zeros(50) for std in (0.05, 0.1, wanted)}
    for step in range(1, 1601):
        weights = weights + 0.1 * torch.randn(50, generator=generator)
        for std, average in kept.items():
            ema.update([average], [weights], ema.decay(step, 1, std))
        if step % 50 == 0:
            for std in (0.05, 0.1):
                ema.store(tmp_path, step, std, {"w": kept[std]})
    rebuilt = ema.reconstruct(tmp_path, wanted)["w"]
    error = float((rebuilt - kept[wanted]).norm())
    nearest = min(float((kept[std] - kept[wanted]).norm()) for std in (0.05, 0.1))
    assert error < 0.1 * nearest
    assert error < 0.02 * float(kept[wanted].norm())


def store_even(run: Path, moments: range, *stds: float) -> None:
    """Averages of weights that never change."""
    for moment in moments:
        for std in stds:
            ema.store(run, moment, std, {"w": torch.ones(3)})


@pytest.mark.parametrize("wanted", [0.03, 0.05, 0.1, 0.2, 0.28])
def test_an_average_of_weights_that_never_change_is_these(tmp_path: Path, wanted: float) -> None:
    store_even(tmp_path, range(1000, 12001, 1000), 0.05, 0.1)
    torch.testing.assert_close(ema.reconstruct(tmp_path, wanted)["w"], torch.ones(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("wanted", "near"), [(0.28, r"0\.1\d*"), (0.01, r"0\.0[2-5]\d?")])
def test_too_few_stored_averages_do_not_tell_every_length(tmp_path: Path, wanted: float, near: str) -> None:
    store_even(tmp_path, range(5120, 10241, 5120), 0.05, 0.1)
    with pytest.raises(
        UserError, match=f"length {wanted:g} at 10,240 pictures: the nearest that they tell is ({near});"
    ) as told:
        ema.reconstruct(tmp_path, wanted)
    nearest = float(str(told.value).partition("they tell is ")[2].partition(";")[0])
    torch.testing.assert_close(ema.reconstruct(tmp_path, nearest)["w"], torch.ones(3), rtol=1e-5, atol=0)


def test_shares_are_those_of_the_least_squares_profile() -> None:
    """Against profiles on a fine grid of times, solved with the sum of the shares held at 1 by a heavy row."""
    ends, gammas, end, gamma = (
        np.array([0.5, 0.5, 1.0, 1.0]),
        np.array([16.97, 6.94, 16.97, 6.94]),
        1.0,
        ema.gamma_of(0.15),
    )
    times = (np.arange(200_000) + 0.5) / 200_000
    made = np.stack(
        [(times < e) * (g + 1) * times**g / e ** (g + 1) for e, g in zip(ends, gammas, strict=True)], axis=1
    )
    wanted = (gamma + 1) * times**gamma
    rows, values = np.vstack([made, np.full(4, 1e6)]), np.append(wanted, 1e6)
    expected = np.linalg.lstsq(rows, values)[0]
    shares, error = ema.coefficients(ends, gammas, end, gamma)
    np.testing.assert_allclose(shares, expected, atol=1e-3)
    assert error == pytest.approx(np.linalg.norm(made @ shares - wanted) / np.linalg.norm(wanted), rel=1e-3)


def test_what_was_stored_is_rebuilt_and_an_earlier_moment_too(tmp_path: Path) -> None:
    for moment in (10, 20):
        for std in (0.05, 0.1):
            ema.store(tmp_path, moment, std, {"w": torch.tensor([moment + std])})
    torch.testing.assert_close(ema.reconstruct(tmp_path, 0.1)["w"], torch.tensor([20.1]), rtol=1e-3, atol=0)
    early = ema.reconstruct(tmp_path, 0.05, num_images=10)["w"]
    torch.testing.assert_close(early, torch.tensor([10.05]), rtol=1e-3, atol=0)
    with pytest.raises(UserError, match="no averages stored at 15 pictures"):
        ema.reconstruct(tmp_path, 0.05, num_images=15)
    with pytest.raises(UserError, match="must lie in"):
        ema.reconstruct(tmp_path, 0.5)
    with pytest.raises(UserError, match="no averages stored"):
        ema.reconstruct(tmp_path / "none", 0.05)
    (tmp_path / "ema" / "000000000020-0.1.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"000000000020-0.1.safetensors is damaged"):
        ema.reconstruct(tmp_path, 0.05)


def test_lengths_that_are_nearly_the_same_are_kept_apart(tmp_path: Path) -> None:
    for std in (0.0501, 0.0504, 0.0004):
        ema.store(tmp_path, 10, std, {"w": torch.tensor([std])})
    for std in (0.0501, 0.0504, 0.0004):
        torch.testing.assert_close(ema.reconstruct(tmp_path, std)["w"], torch.tensor([std]), rtol=2e-3, atol=0)
