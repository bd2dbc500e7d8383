"""Precision, recall, density, coverage and copies against torch-fidelity and their definitions, written out."""

import numpy as np
import pytest
import torch
from ambient.train.evaluate import neighbours
from ambient.train.evaluate.diversity import vendi
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric


@pytest.fixture(params=[(70, 90), (1500, 1100)], ids=["small", "more than a block"])
def sets(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    num_x, num_y = request.param
    return torch.randn(num_x, 6, generator=generator) * 0.8, torch.randn(num_y, 6, generator=generator) + 0.3


def distances(x: Tensor, y: Tensor) -> np.ndarray:
    return np.sqrt(((x.double().numpy()[:, None] - y.double().numpy()[None]) ** 2).sum(axis=2))


def radii(y: Tensor, k: int) -> np.ndarray:
    return np.sort(distances(y, y), axis=1)[:, k]  # the nearest is the picture itself


def test_precision_and_recall_are_those_of_torch_fidelity(sets: tuple[Tensor, Tensor]) -> None:
    x, y = sets
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, verbose=False)
    assert float(neighbours.precision(x, y).mean()) == pytest.approx(theirs["precision"], rel=1e-4)
    assert float(neighbours.precision(y, x).mean()) == pytest.approx(theirs["recall"], rel=1e-4)


def test_density_and_coverage_by_definition(sets: tuple[Tensor, Tensor]) -> None:
    x, y = sets
    far, balls = distances(x, y), radii(y, 5)
    np.testing.assert_array_equal(neighbours.density(x, y).numpy(), (far <= balls).sum(axis=1) / 5)
    np.testing.assert_array_equal(neighbours.coverage(x, y).numpy(), far.min(axis=0) <= balls)
    np.testing.assert_allclose(neighbours.ball_radii(y, 5).numpy(), balls, rtol=1e-9)


def test_one_distribution_gives_the_published_expectations() -> None:
    """Density 1, and coverage near 1 - 2^-k for equal large numbers (arXiv 2002.09797, section 3.2)."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4000, 8, generator=generator) for _ in range(2))
    assert float(neighbours.density(x, y).mean()) == pytest.approx(1, abs=0.05)
    assert float(neighbours.coverage(x, y).mean()) == pytest.approx(1 - 2**-5, abs=0.01)


def test_copies_are_found_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    trained_on = torch.randn(300, 48, generator=generator)
    near = trained_on[:20] + 0.05 * torch.randn(20, 48, generator=generator)
    fresh = torch.randn(50, 48, generator=generator)
    found = neighbours.copied(torch.cat([near, fresh]), trained_on)
    assert found.tolist() == [1.0] * 20 + [0.0] * 50
    on_the_line = torch.tensor([[0.0], [1.0]])
    assert neighbours.copied(torch.tensor([[0.24], [0.26], [1.4], [1.6]]), on_the_line).tolist() == [1, 0, 1, 0]


def test_copies_of_any_form_count_and_a_picture_is_near_once() -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(300, 3, 4, 4, generator=generator)
    pictures[0] = pictures[0] + pictures[0].flip(2)  # its own mirror image
    forms = [form.flatten(1) for form in (pictures, pictures.flip(3))]
    near = pictures[:20] + 0.05 * torch.randn(20, 3, 4, 4, generator=generator)
    for copies in (near, near.flip(3)):
        assert neighbours.copied(copies.flatten(1), *forms).tolist() == [1.0] * 20
    assert neighbours.copied(near.flip(3).flatten(1), forms[0]).tolist() == [1.0] + [0.0] * 19


@pytest.mark.parametrize(("num", "dimensions"), [(30, 8), (8, 30)])
def test_vendi_is_the_entropy_of_the_kernel(num: int, dimensions: int) -> None:
    x = torch.randn(num, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    values = np.linalg.eigvalsh(unit @ unit.T / num)
    values = values[values > 1e-12]
    assert vendi(x) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-9)


def test_vendi_counts_kinds() -> None:
    assert vendi(torch.eye(7).repeat(5, 1)) == pytest.approx(7)
    assert vendi(torch.ones(9, 4)) == pytest.approx(1)
    mixed = torch.eye(2)[[0, 0, 0, 1]]  # p = 3/4, 1/4
    assert vendi(mixed) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
