"""The check that clean and other pictures differ in quality, not in content; and which groups there are."""

import numpy as np
import pytest
import torch
from ambient.curate.confound import Content, content_of
from ambient.curate.crossfit import folds_of
from ambient.curate.groups import groups_of
from ambient.curate.noise import names_of
from ambient.curate.noisy import Sample
from fields import Fields

FIELDS = Fields(resolution=32)


def content(clean: torch.Tensor, other: torch.Tensor) -> Content:
    names = names_of([f"{i:032x}"[::-1] for i in range(len(clean) + len(other))])
    parts = names[: len(clean)], names[len(clean) :]
    sets = [
        Sample(pictures=x, names=n, groups=torch.zeros(len(x)).long())
        for x, n in zip((clean, other), parts, strict=True)
    ]
    folds = folds_of(parts[0], 2, 0), folds_of(parts[1], 2, 0)
    return content_of(sets[0], sets[1], folds, 2)


@pytest.mark.parametrize("num", [40, 400])
@pytest.mark.parametrize("blur", [0.0, 0.6, 2.0])
def test_damage_is_no_confound(num: int, blur: float) -> None:
    found = content(FIELDS.draw(num, seed=1), FIELDS.draw(1200, blur=blur, seed=2))
    assert not found.differs
    assert not found.causes
    assert abs(found.accuracy - 0.5) < (0.2 if num == 40 else 0.08)


@pytest.mark.parametrize("resolution", [8, 16, 64])
@pytest.mark.parametrize("blur", [1.0, 3.0])
def test_damage_of_small_and_large_pictures_is_none_either(resolution: int, blur: float) -> None:
    fields = Fields(resolution=resolution)
    assert not content(fields.draw(400, seed=1), fields.draw(1200, blur=blur, seed=2)).differs


def test_another_brightness_contrast_or_subject_is_and_is_named() -> None:
    clean, other = FIELDS.draw(300, seed=3), FIELDS.draw(900, blur=1.0, seed=4)
    gradient = torch.linspace(-0.4, 0.4, 32).expand(32, 32)
    pairs = {
        "brightness": (clean + 0.5, other),
        "contrast": (clean * 2, other),
        "": (clean + gradient, other - gradient),
    }
    for cause, pair in pairs.items():
        found = content(*pair)
        assert found.accuracy > 0.6
        assert found.differs
        assert list(found.causes) == [cause] * bool(cause)


def test_another_colour_is_named() -> None:
    clean, other = (FIELDS.draw(num, seed=num).expand(-1, 3, -1, -1) for num in (300, 900))
    cast = torch.tensor([0.15, 0.0, -0.15])[:, None, None]
    assert list(content(clean + cast, other).causes) == ["colour"]
    assert not content(clean, other).differs


def test_many_and_small_sources_share_a_group() -> None:
    sources = np.array(["b"] * 30 + ["a"] * 25 + ["tiny"] * 12 + ["small"] * 13, dtype=object)
    assert groups_of(sources) == ("a", "b", "")
    assert groups_of(sources[:67]) == ("a", "b")  # a dozen strays are no group: a half of the pool may have none
    assert groups_of(sources[55:]) == ("",)
    many = groups_of(np.array([f"{i:02d}" for i in range(40) for _ in range(20 + i)], dtype=object))
    assert many == (*(f"{i:02d}" for i in range(25, 40)), "")
    assert groups_of(np.array(["large"] * 99_900 + ["rare"] * 100, dtype=object)) == ("large",)
