"""What the measures are, which samples they look at, and what their intervals cover."""

import numpy as np
import pytest
import torch
from ambient.train.evaluate import measures
from ambient.train.evaluate.distances import moments
from ambient.train.evaluate.measures import measure, measure_copies
from ambient.train.evaluate.reference import Reference
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

CPU = torch.device("cpu")


def two_classes(num: int, seed: int) -> Tensor:
    """(num, 4) features, the first half of one class, the rest of another, far away."""
    features = torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))
    features[num // 2 :] += 100
    return features


def reference(features: Tensor) -> Reference:
    return Reference(moments=moments(features), features=features)


def values(samples: Tensor, known: Reference, seed: int = 0) -> dict[str, float]:
    return {name: found.value for name, found in measure(samples, known, seed=seed).items()}


def collapsed(real: Tensor) -> Tensor:
    """Close to three of the real pictures."""
    return real[:3].repeat(len(real) // 3, 1) + 0.05 * torch.randn(
        real.shape, generator=torch.Generator().manual_seed(1)
    )


def wide(real: Tensor) -> Tensor:
    return 2.5 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1))


def by_others(x: Tensor, y: Tensor) -> dict[str, float]:
    """torch-fidelity's measures of samples x against y (N, D) each, and density and coverage as they are defined.

    Those of arXiv 2002.09797, eq. 5 and 6, with 5 neighbours.
    """
    far = np.linalg.norm(x.double().numpy()[:, None] - y.double().numpy()[None], axis=2)
    balls = np.sort(np.linalg.norm(y.double().numpy()[:, None] - y.double().numpy()[None], axis=2), axis=1)[:, 5]
    found = {
        **fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), verbose=False),
        **kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=len(x), verbose=False),
        **prc_features_to_metric(x, y, prc_neighborhood=3, verbose=False),
    }
    return {
        "frechet": found["frechet_inception_distance"],
        "kernel": found["kernel_inception_distance_mean"],
        "precision": found["precision"],
        "recall": found["recall"],
        "density": (far <= balls).sum() / (5 * len(x)),
        "coverage": (far <= balls).any(axis=0).mean(),
    }


def test_each_measure_is_the_one_that_it_is_named_after() -> None:
    """On samples that are alike and real, and on samples of every kind, most of which are not."""
    real = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    few, far = (values(samples, reference(real)) for samples in (collapsed(real), wide(real)))
    for found, samples in ((few, collapsed(real)), (far, wide(real))):
        expected = by_others(samples, real)
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert few["precision"] > 0.9 > 0.3 > few["recall"] > 0
    assert far["recall"] > 0.9 > 0.3 > far["precision"] > 0


def test_the_order_of_the_samples_does_not_matter() -> None:
    """Samples in the order of their classes are not measured by the first class alone."""
    known = reference(two_classes(60, 0))
    found = values(two_classes(240, 1), known)
    assert found["recall"] > 0.8
    assert found["coverage"] > 0.8
    assert found == values(two_classes(240, 1), known)
    assert found != values(two_classes(240, 1), known, seed=1)


def test_at_most_so_many_are_taken_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MOST_IN_PAIRS", 40)
    samples, known = two_classes(400, 1), reference(two_classes(40, 0))
    assert values(samples, known)["recall"] > 0.6
    assert values(samples, known)["kernel"] < 0.05 * values(samples[:200], known)["kernel"]


def test_copies_are_looked_for_among_samples_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half are copies, and half of the samples are looked at."""
    trained_on = torch.randint(256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fresh = torch.randint(256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    monkeypatch.setattr(measures, "MOST_IN_PAIRS", 50)
    found = measure_copies(torch.cat([fresh, trained_on]), trained_on, CPU, seed=0)
    assert found.value == pytest.approx(0.5, abs=0.2)
    assert measure_copies(torch.cat([trained_on, fresh]), trained_on, CPU, seed=0).value == 1 - found.value


def test_what_the_intervals_cover() -> None:
    """The error of recall is the spread over references, the samples held, and that of precision over samples."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(100, 6, generator=generator)

    held, known = draw(), reference(draw())
    recalls = [measure(held, reference(draw()), seed=0)["recall"] for _ in range(60)]
    precisions = [measure(draw(), known, seed=0)["precision"] for _ in range(60)]
    for found in (recalls, precisions):
        error = float(np.mean([each.error for each in found]))
        assert np.std([each.value for each in found]) == pytest.approx(error, rel=0.35)
