"""What else is in the pool must not matter: a mild blur as one picture in a hundred among heavy ones."""

import numpy as np
import pytest
import torch
from ambient.curate.classifier import ClassifierConfig
from ambient.curate.curves import p_clean, search
from ambient.curate.damage import find_damage
from ambient.curate.fit import FitConfig, Split, fit_members
from ambient.curate.noisy import Sample
from ambient.curate.threshold import crossing, isotonic, sigma_grid
from ambient.schemas.space import Space
from fields import Fields
from torch import Tensor

pytestmark = pytest.mark.slow
THREADS = 2  # tests/conftest.py

FIELDS = Fields(resolution=16)
MILD, HEAVY = 0.6, 2.0


def median_sigma_min(mild: int, heavy: int, *, told: str) -> float:
    """Of mildly blurred fields, by a classifier trained on a pool of so many.

    told: "nothing", "source": which are which, or "damage": the group that each is found to be of.
    """
    other = torch.cat([FIELDS.draw(mild, blur=MILD, seed=11), FIELDS.draw(heavy, blur=HEAVY, seed=12)])
    clean = FIELDS.draw(3000, seed=13)
    pictures, names = FIELDS.draw(30, blur=MILD, seed=99), torch.arange(30)
    groups, mine = torch.zeros(mild + heavy).long(), torch.zeros(30).long()
    if told == "source":
        groups[mild:] = 1
    elif told == "damage":
        damage = find_damage(clean, other)
        groups, mine = damage.groups(other), damage.groups(pictures)
    held = torch.cat([torch.arange(mild // 10), mild + torch.arange(heavy // 10)])
    split = Split(
        clean=torch.arange(2700), other=without(len(other), held), held_clean=torch.arange(2700, 3000), held_other=held
    )
    fit = fit_members(
        sample(clean, torch.zeros(3000).long()),
        sample(other, groups),
        [split],
        space=Space(resolution=16, channels=1),
        config=FitConfig(steps=150, lr=2e-3, batch_size=256),
        network=ClassifierConfig(dropout=0.0, groups=int(groups.max()) + 1),
    )
    curves = search(fit.members[0], pictures, names, sigma_grid(), groups=mine, draws=16, tau=0.45)
    return float(np.median(crossing(isotonic(curves.mean, curves.count), sigma_grid(), 0.45)))


def sample(pictures: Tensor, groups: Tensor) -> Sample:
    return Sample(pictures=pictures, names=torch.zeros_like(groups), groups=groups)


def without(num: int, held: Tensor) -> Tensor:
    keep = torch.ones(num, dtype=torch.bool)
    keep[held] = False
    return keep.nonzero()[:, 0]


@pytest.fixture(scope="module")
def alone() -> float:
    """What the best possible classifier gives those fields when nothing else is in the pool."""

    def best(x: Tensor, sigma: Tensor) -> Tensor:
        return FIELDS.optimal_logit(x, sigma[:1], blurs=[MILD])

    pictures, levels = FIELDS.draw(30, blur=MILD, seed=99), torch.tensor(sigma_grid(), dtype=torch.float32)
    p = p_clean(best, pictures, torch.arange(30), levels, draws=64).mean(dim=2)
    return float(np.median(crossing(isotonic(p.double().numpy()), sigma_grid(), 0.45)))


@pytest.mark.parametrize(("mild", "heavy", "told"), [(3000, 0, "nothing"), (30, 2970, "source"), (30, 2970, "damage")])
def test_a_damage_gets_the_threshold_that_is_right_for_it_alone(alone: float, mild: int, heavy: int, told: str) -> None:
    """Also where it is one picture in a hundred."""
    assert abs(median_sigma_min(mild, heavy, told=told) / alone - 1) < 0.15


def test_a_rare_damage_that_is_not_told_apart_looks_clean(alone: float) -> None:
    """The fault that groups mend."""
    assert median_sigma_min(30, 2970, told="nothing") < 0.7 * alone
