"""Standard errors against what repeating the whole experiment gives."""

import numpy as np
import pytest
import torch
from ambient.train.evaluate.chance import bootstrap_error, interval, mean_error, share_error, share_interval
from ambient.train.evaluate.distances import frechet_distance, moments
from scipy import stats


def draw(seed: int, num: int = 400) -> torch.Tensor:
    return torch.randn(num, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.3 + 0.4


def test_the_bootstrap_error_is_the_spread_over_repetitions() -> None:
    reference = moments(torch.randn(5000, 5, generator=torch.Generator().manual_seed(9)))

    def distance(x: torch.Tensor) -> float:
        return frechet_distance(moments(x), reference)

    spread = np.std([distance(draw(i)) for i in range(200)])
    errors = [bootstrap_error(draw(i), distance, seed=i) for i in range(10)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_the_bootstrap_depends_on_the_seed_only() -> None:
    x = draw(0)
    first, same, other = (bootstrap_error(x, lambda z: float(z.mean()), seed=s) for s in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.9])
def test_intervals_of_shares_hold_the_truth(share: float) -> None:
    """Nine times in ten or more, also where most sets of 60 hold none."""
    random = np.random.default_rng(0)
    sets = [torch.from_numpy((random.random(60) < share).astype(float)) for _ in range(400)]
    inside = [abs(float(values.mean()) - share) <= 1.645 * share_error(values) for values in sets]
    assert np.mean(inside) >= 0.86
    assert share_error(torch.zeros(100)) == pytest.approx((2 / 104 * 102 / 104 / 104) ** 0.5)


def test_errors_of_means_and_intervals() -> None:
    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    assert mean_error(values) == pytest.approx(stats.sem(values.numpy()))
    assert interval(3.0, 0.5) == pytest.approx(stats.norm.interval(0.9, 3.0, 0.5))


@pytest.mark.parametrize(("found", "num"), [(0, 15), (1, 120), (37, 60), (60, 60)])
def test_intervals_of_shares_are_wilsons(found: int, num: int) -> None:
    values = (torch.arange(num) < found).double()
    expected = stats.binomtest(found, num).proportion_ci(0.9, method="wilson")
    assert share_interval(values) == pytest.approx((expected.low, expected.high), abs=1e-12)
