"""Calibration: temperatures that are found again, and the error that they take away."""

import math

import pytest
import torch
from ambient.curate.calibrate import _temperatures, calibrate, calibration_error
from ambient.curate.classifier import ClassifierConfig, QualityClassifier
from ambient.curate.fit import Fit, FitConfig, Split
from ambient.curate.noisy import Sample
from ambient.schemas.space import Space
from fields import Fields

SPACE = Space(resolution=8, channels=1)
FIELDS = Fields(resolution=8)


def test_a_known_temperature_at_each_level_is_found_again() -> None:
    """Logits 3 times too sure below sigma 1 and half as sure as they may be above."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.exp(torch.empty(40_000).uniform_(math.log(0.01), math.log(80), generator=generator))
    right = 1.5 * torch.randn(40_000, generator=generator)
    labels = (torch.rand(40_000, generator=generator) < torch.sigmoid(right)).double()
    factor = torch.where(sigma < 1, 3.0, 0.5)
    features = QualityClassifier(SPACE, ClassifierConfig()).temperature_features
    found = torch.exp(features(sigma) @ _temperatures([((factor * right).double(), sigma.double(), labels)], features))
    for low, high, expected in ((0.02, 0.3, 3.0), (4.0, 50.0, 0.5)):
        assert float(found[(sigma > low) & (sigma < high)].median()) == pytest.approx(expected, rel=0.15)


def test_calibration_error_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(60_000, generator=generator)
    labels = torch.rand(60_000, generator=generator) < p
    assert calibration_error(p, labels) < 0.02
    assert calibration_error(0.5 * p, labels) == pytest.approx(0.25, abs=0.02)  # mean of p / 2


def test_members_that_are_too_sure_are_calmed() -> None:
    """Two members that say +-6 by a coin: nothing is to be told apart, so that p_clean must come to 0.5."""
    pictures = [FIELDS.draw(300, seed=seed) for seed in (1, 2)]
    clean, other = (Sample(pictures=x, names=torch.arange(300), groups=torch.zeros(300).long()) for x in pictures)
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        member = QualityClassifier(SPACE, ClassifierConfig()).eval()
        torch.nn.init.normal_(member.joint_out.weight, std=20.0)
        members.append(member)
    half = torch.arange(150)
    splits = [Split(clean=half, other=half, held_clean=half + 150, held_other=half + 150)] * 2
    fit = Fit(members=members, splits=splits, held_out_loss=1.0, accuracy=0.5, steps=1)
    found = calibrate(fit, clean, other, FitConfig())
    assert max(found.before) > 0.2
    assert all(after < 0.5 * before for before, after in zip(found.before, found.after, strict=True)), str(found)
    x, sigma = clean.pictures[:50], torch.full((50,), 0.3)
    with torch.no_grad():
        assert float((torch.sigmoid(members[0](x, sigma)) - 0.5).abs().mean()) < 0.15
    assert torch.equal(members[0].log_temperature, members[1].log_temperature)
    assert str(found).count(" to ") == 7
