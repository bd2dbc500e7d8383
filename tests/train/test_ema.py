"""Power-function averages against their definition, and reconstruction against an average that was really kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train import ema
from safetensors.torch import load_file


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
    """Against profiles on a fine grid of times, solved with the sum of the shares held at 1 by a heavy row.

    A row for each share holds it down; the error is that of the profile alone.
    """
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
    down = 0.01 * np.linalg.norm(wanted) * np.eye(4)
    rows, values = np.vstack([made, down, np.full(4, 1e6)]), np.concatenate([wanted, np.zeros(4), [1e6]])
    expected = np.linalg.lstsq(rows, values)[0]
    (shares,), (error,) = ema.coefficients(ends, gammas, end, np.array([gamma]))
    np.testing.assert_allclose(shares, expected, atol=1e-3)
    assert shares.sum() == pytest.approx(1)
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
    stds = (0.0501, 0.0504, 0.0004)
    for std in stds:
        ema.store(tmp_path, 10, std, {"w": torch.tensor([std])})
    kept = sorted(float(load_file(path)["w"]) for path in (tmp_path / "ema").iterdir())
    assert kept == pytest.approx(sorted(stds), rel=1e-3)


def test_rounding_is_not_amplified_where_many_averages_are_stored() -> None:
    """Weights walk at random, and two averages are stored in float16 at 400 moments, which nearly depend on each other.

    Errors of others are told in units of what float16 costs one average. Without a price on shares they are 21, 6.8,
    0.9 and 0.9.
    """
    most = {0.02: 4.0, 0.03: 2.0, 0.07: 0.75, 0.12: 0.5}
    stds = (0.05, 0.1, *most)
    gammas = np.array([ema.gamma_of(std) for std in stds])
    rng = np.random.default_rng(0)
    steps, weights, averages = 6400, rng.standard_normal(100), np.zeros((len(stds), 100))
    ends, stored = [], []
    for step in range(1, steps + 1):
        weights = weights + steps**-0.5 * rng.standard_normal(100)
        averages += (1 - (1 - 1 / step) ** (gammas[:, None] + 1)) * (weights - averages)
        if step % 16 == 0:
            ends += [step, step]
            stored += list(averages[:2].astype(np.float16).astype(np.float64))
    of_one = np.linalg.norm(stored[-1] - averages[1])
    shares, _ = ema.coefficients(np.array(ends, float), np.tile(gammas[:2], 400), steps, gammas[2:])
    errors = np.linalg.norm(shares @ np.stack(stored) - averages[2:], axis=1) / of_one
    assert (errors < list(most.values())).all(), errors


def test_several_lengths_at_once_are_those_one_by_one() -> None:
    ends, gammas = np.array([5.0, 5.0, 10.0, 10.0]), np.array([16.97, 6.94, 16.97, 6.94])
    wanted = np.array([ema.gamma_of(std) for std in (0.02, 0.07, 0.28)])
    shares, errors = ema.coefficients(ends, gammas, 10.0, wanted)
    for i, gamma in enumerate(wanted):
        one, error = ema.coefficients(ends, gammas, 10.0, np.array([gamma]))
        np.testing.assert_allclose(one[0], shares[i])
        np.testing.assert_allclose(error[0], errors[i])


def test_the_nearest_length_is_found_by_solving_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_even(tmp_path, range(10, 21, 10), 0.0004, 0.05)
    solved: list[int] = []
    real = ema.coefficients

    def spied(ends: np.ndarray, gammas: np.ndarray, end: float, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        solved.append(len(wanted))
        return real(ends, gammas, end, wanted)

    monkeypatch.setattr(ema, "coefficients", spied)
    with pytest.raises(UserError, match=r"the nearest that they tell is 0\.0004;"):
        ema.reconstruct(tmp_path, 0.002)
    assert len(solved) == 2


@pytest.mark.parametrize("wanted", [0.0, 0.9e-4, 1e-200, 0.29, float("nan")])
def test_lengths_out_of_reach_of_any_run_are_refused(tmp_path: Path, wanted: float) -> None:
    store_even(tmp_path, range(10, 21, 10), 0.05)
    with pytest.raises(UserError, match=r"must lie in \[0\.0001, 0\.28\], not"):
        ema.reconstruct(tmp_path, wanted)


def test_the_shortest_length_can_be_kept_and_rebuilt(tmp_path: Path) -> None:
    store_even(tmp_path, range(10, 21, 10), ema.SHORTEST, 0.05)
    torch.testing.assert_close(ema.reconstruct(tmp_path, ema.SHORTEST)["w"], torch.ones(3), rtol=1e-5, atol=0)
