"""Which samples the measures look at, and what their intervals cover."""

import numpy as np
import pytest
import torch
from ambient.train.evaluate import measures
from ambient.train.evaluate.distances import moments
from ambient.train.evaluate.measures import measure, measure_copies
from ambient.train.evaluate.reference import Reference
from torch import Tensor

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
