"""The self-test: it passes here, and notices what is wrong."""

from pathlib import Path

import pytest
import torch
from ambient.curate.noise import normals
from ambient.train.selftest import Comparison, expected, self_test
from ambient.train.target import weighted_loss

CPU = torch.device("cpu")


def test_it_passes_here(tmp_path: Path) -> None:
    """After a change that is meant to change these values: ``python benchmarks/selftest.py``."""
    found = self_test(tmp_path, CPU)
    assert [c.name for c in found] == ["words", "normals", "sharpness", "p_clean", "sigma_min", "loss"]
    assert [c for c in found if not c.ok] == []


def test_it_notices_noise_that_is_too_loud_and_a_loss_that_is_too_high(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambient.curate.curves.normals", lambda *a, **k: 1.1 * normals(*a, **k))
    monkeypatch.setattr("ambient.train.loop.weighted_loss", lambda *a: 1.3 * weighted_loss(*a))
    found = {c.name: c.ok for c in self_test(tmp_path, CPU)}
    assert found == {
        "words": True,
        "normals": True,
        "sharpness": True,
        "p_clean": False,
        "sigma_min": False,
        "loss": False,
    }


def test_what_is_stored_says_where_it_comes_from() -> None:
    stored = expected()
    assert set(stored["values"]) == set(stored["tolerance"])
    assert set(stored["provenance"]) == {"command", "date", "machine", "versions"}
    assert stored["tolerance"]["words"] == 0


def test_comparison() -> None:
    def ok(found: float) -> bool:
        return Comparison(name="x", found=found, expected=2.0, tolerance=0.1).ok

    assert ok(2.05)
    assert not ok(1.85)
    assert not ok(float("nan"))
