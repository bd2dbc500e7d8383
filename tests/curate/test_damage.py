"""Groups of damage: found where there are gaps, the same for a picture whoever is beside it, kept in the file."""

from pathlib import Path

import pytest
import torch
from ambient.curate.classifier import ClassifierConfig, QualityClassifier
from ambient.curate.crossfit import CrossFitted, load_classifier, save_classifier
from ambient.curate.damage import Damage, find_damage
from ambient.schemas.space import Space
from fields import Fields
from torch import Tensor

FIELDS = Fields(resolution=16)


def pool(**kinds: int) -> tuple[Tensor, Tensor]:
    """Fields blurred by 0.6, 1.2, 2 (``mild``, ``middle``, ``heavy``) or not, shuffled, and which is which."""
    blurs = {"clean": 0.0, "mild": 0.6, "middle": 1.2, "heavy": 2.0}
    x = torch.cat([FIELDS.draw(num, blur=blurs[kind], seed=10 + i) for i, (kind, num) in enumerate(kinds.items())])
    kind = torch.repeat_interleave(torch.arange(len(kinds)), torch.tensor(list(kinds.values())))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], kind[order]


def purity(damage: Damage, other: Tensor, kind: Tensor) -> float:
    """Share of the pictures whose group is that of most of their kind, no two kinds sharing one."""
    groups = damage.groups(other)
    most = [int(groups[kind == k].mode().values) for k in range(int(kind.max()) + 1)]
    assert len(set(most)) == len(most)
    return float((groups == torch.tensor(most)[kind]).double().mean())


@pytest.mark.parametrize("kinds", [{"mild": 30, "heavy": 2970}, {"mild": 500, "middle": 500, "heavy": 500}])
def test_unlike_blurs_are_apart_however_rare(kinds: dict[str, int]) -> None:
    other, kind = pool(**kinds)
    damage = find_damage(FIELDS.draw(1000, seed=1), other)
    assert damage is not None
    assert damage.names == tuple(f"damage {k + 1}" for k in range(len(kinds)))
    assert purity(damage, other, kind) > 0.998


def test_one_damage_is_not_cut() -> None:
    for kinds in ({"heavy": 2000}, {"mild": 2000}, {"clean": 2000}):
        other, _ = pool(**kinds)
        damage = find_damage(FIELDS.draw(500, seed=1), other)
        assert damage is None or len(set(damage.groups(other).tolist())) == 1 or "clean" in kinds
    other, _ = pool(clean=2000)
    damage = find_damage(FIELDS.draw(500, seed=1), other)
    assert damage is None or (damage.groups(other) == 0).double().mean() > 0.95


@pytest.mark.parametrize("num", [100, 1000])
def test_clean_pictures_in_the_pool_stay_together(num: int) -> None:
    """Their group must not tell them from the clean set."""
    other, kind = pool(clean=600, mild=700, heavy=700)
    damage = find_damage(FIELDS.draw(num, seed=1), other)
    assert damage is not None
    assert damage.names == ("looks clean", "damage 1", "damage 2")
    assert purity(damage, other, kind) > 0.98
    fresh = damage.groups(FIELDS.draw(500, seed=3))
    assert (fresh == 0).double().mean() > 0.95


def test_contrast_is_no_damage() -> None:
    """One blur at four contrasts, and at mixtures of colours, is one group."""
    x = (
        FIELDS.draw(2000, blur=1.2, seed=4)
        * torch.tensor([0.2, 0.4, 0.8, 1.0])[torch.arange(2000) % 4, None, None, None]
    )
    clean = FIELDS.draw(1000, seed=1) * torch.tensor([0.2, 0.4, 0.8, 1.0])[torch.arange(1000) % 4, None, None, None]
    damage = find_damage(clean, x)
    assert damage is None or damage.groups(x).bincount().max() > 0.95 * len(x)


def test_the_group_is_the_pictures_own_and_lies_in_the_file(tmp_path: Path) -> None:
    other, _ = pool(clean=300, mild=300, heavy=300)
    damage = find_damage(FIELDS.draw(300, seed=1), other)
    assert damage is not None
    groups = damage.groups(other)
    assert torch.equal(damage.groups(other[100:110]), groups[100:110])
    members = [QualityClassifier(Space(resolution=16, channels=1), ClassifierConfig(groups=3)) for _ in range(2)]
    save_classifier(tmp_path / "c", CrossFitted(members, seed=0, groups=damage.names, damage=damage))
    loaded, _ = load_classifier(tmp_path / "c")
    assert torch.equal(loaded.told(["any"] * len(other), other), groups)
    assert loaded.groups == damage.names
