"""The stream of batches: which pictures lose their label, and whether the class "none" is trained at all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train.batches import trains_none, without_some
from ambient.train.config import TrainConfig
from ambient.train.rows import read_rows
from ambient.train.sampler import Sampler
from small_pool import write_pool

CONFIG = TrainConfig(num_classes=4, label_dropout=0.1)


def test_a_share_of_the_labels_is_dropped_and_the_others_stay() -> None:
    classes = torch.arange(40_000) % 4
    kept = without_some(classes, torch.arange(40_000), CONFIG)
    none = kept == 4
    assert float(none.float().mean()) == pytest.approx(0.1, abs=0.006)
    assert torch.equal(kept[~none], classes[~none])
    assert torch.bincount(classes[none], minlength=4).min() > 850


def test_which_depends_on_the_number_of_the_training_picture_only() -> None:
    classes, indices = torch.zeros(1000, dtype=torch.int64), torch.arange(1000)
    kept = without_some(classes, indices, CONFIG)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(without_some(classes, order, CONFIG), kept[order])
    assert not torch.equal(without_some(classes, indices, replace(CONFIG, seed=1)), kept)


def test_which_has_nothing_to_do_with_the_noise_level() -> None:
    _, sigma = Sampler(torch.zeros(1), torch.zeros(1), P_mean=0.0, P_std=1.0).draw(torch.arange(40_000))
    none = without_some(torch.zeros(40_000, dtype=torch.int64), torch.arange(40_000), CONFIG) == 4
    assert float(sigma.log()[none].mean()) == pytest.approx(0.0, abs=0.08)  # five standard deviations


def test_no_dropout_changes_nothing() -> None:
    classes = torch.arange(1000) % 4
    assert without_some(classes, torch.arange(1000), replace(CONFIG, label_dropout=0.0)) is classes
    with pytest.raises(UserError, match="label_dropout"):
        TrainConfig(label_dropout=1.5)


@pytest.mark.parametrize(
    ("labels", "num_classes", "dropout", "expected"),
    [
        ([0, 1, 2], 3, 0.0, False),
        ([0, 1, 2], 3, 0.1, True),
        ([0, None, 2], 3, 0.0, True),
        ([0, None, 2], 0, 0.0, False),
    ],
)
def test_whether_none_is_trained(
    tmp_path: Path, labels: list[int | None], num_classes: int, dropout: float, expected: bool
) -> None:
    rows = read_rows(write_pool(tmp_path, num=3, labels=labels))
    assert trains_none(rows, TrainConfig(num_classes=num_classes, label_dropout=dropout)) is expected
