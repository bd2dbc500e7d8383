"""What a run says of its pictures before it begins, against counts of its own draws."""

import re
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.remarks import remarks
from ambient.train.rows import Rows
from ambient.train.sampler import Sampler, slots

CONFIG = TrainConfig.from_settings(["num_images=40960", "batch_size=64"])


def rows_of(sigma_min: list[float], labels: list[int]) -> Rows:
    words = pa.chunked_array([[str(i) for i in range(len(sigma_min))]])
    return Rows(
        space=Space(resolution=8),
        roots={},
        uris=words,
        ids=words,
        names=torch.arange(len(words)),
        sigma_min=torch.tensor(sigma_min),
        sigma_max=torch.zeros(len(words)),
        clean=torch.tensor(sigma_min) == 0,
        pool_share=torch.zeros(2, 0),
        labels=torch.tensor(labels),
        fingerprint="",
    )


def sampler_of(rows: Rows, *, keep: bool = False) -> Sampler:
    clean = rows.clean if keep else None
    return Sampler(rows.sigma_min, rows.sigma_max, P_mean=-1.2, P_std=1.2, clean=clean)


@pytest.mark.parametrize("keep", [False, True])
def test_repeats_of_a_clean_picture_are_those_of_the_draws(keep: bool) -> None:
    rows = rows_of([0.0] * 4 + [0.5] * 60, [-1] * 64)
    sampler = sampler_of(rows, keep=keep)
    (line,) = remarks(rows, CONFIG, sampler)
    which = "4 clean pictures" if keep else "4 pictures usable at every noise level"
    said = rf"each of the {which} will be seen about ([\d.e+]+) times"
    found = re.fullmatch(said, line.replace(",", ""))
    drawn, _ = sampler.draw(slots(0, CONFIG.num_images))
    assert found
    assert float(found[1]) == pytest.approx(int((drawn < 4).sum()) / 4, rel=0.02)


def test_what_a_classifier_finds_usable_everywhere_is_not_counted_as_clean() -> None:
    rows = rows_of([0.0] * 4 + [0.5] * 60, [-1] * 64)
    rows = replace(rows, clean=torch.arange(64) < 3)
    assert remarks(rows, CONFIG, sampler_of(rows, keep=True))[0].startswith("each of the 3 clean pictures will be seen")
    assert remarks(rows, CONFIG, sampler_of(rows))[0].startswith("each of the 4 pictures usable at every noise level")


def test_one_clean_picture_is_named() -> None:
    rows = rows_of([0.0, 2.0], [-1, -1])
    assert remarks(rows, CONFIG, sampler_of(rows))[0].startswith("the one picture usable at every noise level")
    assert remarks(rows, CONFIG, sampler_of(rows, keep=True))[0].startswith("the one clean picture will be seen")


def test_labels_that_are_missing_and_classes_without_pictures_are_said() -> None:
    rows = rows_of([0.0] * 5, [0, 1, -1, -1, 1])
    _, missing, empty = remarks(rows, replace(CONFIG, num_classes=12), sampler_of(rows))
    assert missing == "2 of 5 pictures have no label: they are trained on without a class"
    assert empty == "10 of 12 classes have no picture, and learn nothing: 2, 3, 4, 5, 6, 7, 8, 9, ..."
    both = rows_of([0.0] * 2, [0, 1])
    assert len(remarks(both, replace(CONFIG, num_classes=2), sampler_of(both))) == 1
