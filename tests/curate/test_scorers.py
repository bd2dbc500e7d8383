"""Batches by shape: the same values whatever the order and the batch, and a bad piece that spoils nobody else."""

import numpy as np
import pytest
import torch
from ambient.curate import scorers
from ambient.curate.scorers import Scorer, measure_all
from torch import Tensor

CPU = torch.device("cpu")


class Recorder:
    """A measure: the mean of a piece. Fails on a batch with a piece whose first value is 255."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(tuple(x.shape))
        if (x[:, 0, 0, 0] == 255).any():
            raise RuntimeError("too\nbright")
        return x.float().mean(dim=(1, 2, 3))


def pieces_of(counts: list[int], seed: int = 0) -> list[list[np.ndarray]]:
    """Per picture so many pieces of 8 x 8 or 8 x 12."""
    random = np.random.default_rng(seed)
    return [
        [random.integers(0, 200, (8, 8 + 4 * int(random.integers(2)), 3), dtype=np.uint8) for _ in range(count)]
        for count in counts
    ]


@pytest.mark.parametrize("limits", [(2**21, 2**26), (200, 2**26), (10**9, 700), (1, 1)])
def test_values_do_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int]) -> None:
    monkeypatch.setattr(scorers, "_BATCH_PIXELS", {"cpu": limits[0]})
    monkeypatch.setattr(scorers, "_WAITING_PIXELS", limits[1])
    pictures, measure = pieces_of([1, 3, 0, 2] * 5), Recorder()
    scorer = Scorer(name="m", cut=lambda _: [], measure=measure)
    values, problems = measure_all(enumerate({"m": p} for p in pictures), [scorer], len(pictures), CPU)
    expected = [np.mean([piece.mean() for piece in p]) if p else np.nan for p in pictures]
    np.testing.assert_allclose(values["m"], expected, rtol=1e-6)
    assert problems == {}
    assert sum(shape[0] for shape in measure.batches) == 30
    assert max(shape[0] * shape[2] * shape[3] for shape in measure.batches) <= max(min(limits) + 96, 96)


def test_one_bad_piece_spoils_only_its_picture() -> None:
    pictures = pieces_of([1] * 40)
    pictures[13][0] = np.full((8, 8, 3), 255, np.uint8)
    measure = Recorder()
    scorer = Scorer(name="m", cut=lambda _: [], measure=measure)
    values, problems = measure_all(enumerate({"m": p} for p in pictures), [scorer], 40, CPU)
    assert np.flatnonzero(np.isnan(values["m"])).tolist() == [13]
    assert problems == {"m": "RuntimeError: too bright"}
    assert len(measure.batches) < 16  # halves, not one by one


def test_vectors_are_measured_as_numbers_are() -> None:
    """The mean over the pieces of each; a piece that fails leaves NaN in every place of its own picture only."""
    pictures, number = pieces_of([1, 3, 0, 2] * 5), Recorder()
    pictures[8][0] = np.full((8, 8, 3), 255, np.uint8)

    def measure(x: Tensor) -> Tensor:
        return torch.stack([number(x), -x.float().amax(dim=(1, 2, 3))], dim=1)

    scorer = Scorer(name="m", cut=lambda _: [], measure=measure, shape=(2,))
    values, problems = measure_all(enumerate({"m": p} for p in pictures), [scorer], len(pictures), CPU)
    expected = [
        np.mean([(piece.mean(), -float(piece.max())) for piece in p], axis=0) if p else (np.nan, np.nan)
        for p in pictures
    ]
    expected[8] = np.array([np.nan, np.nan])
    np.testing.assert_allclose(values["m"], np.array(expected), rtol=1e-6)
    assert problems == {"m": "RuntimeError: too bright"}


def test_a_measure_that_returns_something_else_is_a_failure() -> None:
    scorer = Scorer(name="m", cut=lambda _: [], measure=lambda x: x.float())
    values, problems = measure_all([(0, {"m": pieces_of([1])[0]})], [scorer], 1, CPU)
    assert np.isnan(values["m"]).all()
    assert "values of 1 pictures" in problems["m"]
