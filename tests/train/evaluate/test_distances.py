"""The distances against scipy, torch-fidelity, closed forms and definitions written out."""

import math

import numpy as np
import pytest
import torch
from ambient.train.evaluate import distances
from ambient.train.evaluate.distances import Moments, frechet_distance, kernel_distance, moments
from scipy.linalg import sqrtm
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric


def frechet_by_roots(a: Moments, b: Moments) -> float:
    """Another way to the same, by eigenvalues: tr (S_a S_b)^(1/2) = tr (S_a^(1/2) S_b S_a^(1/2))^(1/2).

    Loses about half of the digits where a covariance has no full rank.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    root = torch.linalg.eigvalsh(half @ b.covariance @ half).clamp(min=0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return float(apart + a.covariance.trace() + b.covariance.trace() - 2 * root)


def features(num: int, dimensions: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated, skewed, float32."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(0)) / dimensions**0.5
    x = torch.randn(num, dimensions, generator=generator)
    return (x + 0.3 * x.square()) @ mix + shift


def by_scipy(x: Tensor, y: Tensor) -> float:
    a, b = x.double().numpy(), y.double().numpy()
    covariances = [np.cov(part, rowvar=False) for part in (a, b)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    apart = a.mean(axis=0) - b.mean(axis=0)
    return float(apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize(("num", "dimensions"), [(300, 20), (500, 96)])
def test_frechet_is_that_of_scipy_and_of_torch_fidelity(num: int, dimensions: int) -> None:
    x, y = features(num, dimensions, 1), features(num + 50, dimensions, 2, shift=0.1)
    found = frechet_distance(moments(x), moments(y))
    theirs = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), verbose=False)
    assert found == pytest.approx(by_scipy(x, y), rel=1e-6)
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert found == pytest.approx(frechet_by_roots(moments(x), moments(y)), rel=1e-9)


def test_frechet_of_gaussians_has_a_closed_form() -> None:
    """Covariances that commute: |m|^2 + sum (sd_a - sd_b)^2."""
    sd_a, sd_b = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.5, 1.0, 0.5])
    white = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    white = (white - white.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    found = frechet_distance(moments(white * sd_a), moments(white * sd_b + 0.3))
    assert found == pytest.approx(3 * 0.09 + 0.25 + 1.0, rel=1e-9)


def test_frechet_of_fewer_pictures_than_features() -> None:
    """Rank-deficient covariances: still exact against the other way, and 0 for the same pictures."""
    x, y = features(40, 200, 1), features(60, 200, 2)
    a, b = moments(x), moments(y)
    assert a.factor.shape == (40, 200)
    torch.testing.assert_close(a.covariance, x.double().T.cov())
    assert frechet_distance(a, b) == pytest.approx(frechet_by_roots(a, b), rel=1e-5)
    assert abs(frechet_distance(a, a)) < 1e-12 * float(a.covariance.trace()) * 200
    assert abs(frechet_by_roots(a, a)) > abs(frechet_distance(a, a))


def test_frechet_is_a_distance() -> None:
    a, b = moments(features(200, 10, 1)), moments(features(200, 10, 2, shift=1.0))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a, b) > 9


def test_kernel_distance_is_that_of_torch_fidelity() -> None:
    x, y = features(150, 24, 1), features(150, 24, 2, shift=0.2)
    value, _ = kernel_distance(x, y)
    theirs = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=150, verbose=False)
    assert value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_kernel_distance_by_definition() -> None:
    """Unequal numbers; the jackknife by leaving pictures out for real."""
    x, y = features(12, 5, 1).double(), features(9, 5, 2).double()

    def slowly(x: Tensor, y: Tensor) -> float:
        def k(a: Tensor, b: Tensor) -> float:
            return float((a @ b / 5 + 1) ** 3)

        within = [
            sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
            for z in (x, y)
        ]
        return sum(within) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))

    def without(z: Tensor, i: int) -> Tensor:
        return torch.cat([z[:i], z[i + 1 :]])

    value, error = kernel_distance(x, y)
    assert value == pytest.approx(slowly(x, y), rel=1e-12)
    over_x = np.array([slowly(without(x, i), y) for i in range(12)])
    over_y = np.array([slowly(x, without(y, i)) for i in range(9)])
    variance = over_x.var() * 11 + over_y.var() * 8
    assert error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kernel_distance_is_unbiased_and_its_error_right() -> None:
    """Of samples of one distribution the mean is 0; of two, the spread over repetitions is the standard error."""
    same = [kernel_distance(features(60, 6, 2 * i), features(60, 6, 2 * i + 1))[0] for i in range(150)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(150)
    found = [kernel_distance(features(80, 6, 2 * i), features(80, 6, 2 * i + 1, shift=1.0)) for i in range(150)]
    values, errors = np.array(found).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_moments_in_parts_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts shorter and longer than there are features."""
    x = features(500, 40, 1)
    for tall in (16, 130, 8192):
        monkeypatch.setattr(distances, "_TALL", tall)
        found = moments(x)
        assert found.factor.shape == (40, 40)
        np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)
