"""Measuring curves: each picture by the member that has not seen it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ambient.curate.config import AnnotateConfig
from ambient.curate.crossfit import CrossFitted, folds_of
from ambient.curate.measure import cross_search
from ambient.curate.noise import names_of
from torch import Tensor, nn

LOGITS = (-1.0, 1.0)
SEED = 7  # of the classifier; that of the run is another


class Constant(nn.Module):
    """Says the same of every picture, and a little more of what belongs to a later group."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, _x: Tensor, _sigma: Tensor, group: Tensor) -> Tensor:
        return self.logit + 0.25 * group


CLASSIFIER = CrossFitted([Constant(logit) for logit in LOGITS], seed=SEED, groups=("a", "b", "c"))


def expected(ids: list[str], groups: list[int]) -> np.ndarray:
    """(N,) what the member of each picture's own fold says."""
    folds = folds_of(names_of(ids), len(LOGITS), SEED)
    assert 0.3 < folds.double().mean() < 0.7
    return torch.sigmoid(torch.tensor(LOGITS)[folds] + 0.25 * torch.tensor(groups)).numpy()


@pytest.mark.parametrize("draws", [1, 6])
def test_each_picture_is_judged_by_the_member_of_its_fold(draws: int) -> None:
    ids, groups = [f"{i:032x}"[::-1] for i in range(60)], [i % 3 for i in range(60)]
    run = SimpleNamespace(config=AnnotateConfig(draws=draws, seed=SEED + 1))
    x, told = torch.zeros(60, 1, 8, 8), torch.tensor(groups)
    found = cross_search(CLASSIFIER, x, names_of(ids), told, run=run, compiled=False)
    np.testing.assert_allclose(found.mean, np.tile(expected(ids, groups)[:, None], 48), rtol=1e-6)
    assert found.count.sum(axis=1).tolist() == [48 * draws] * 60
