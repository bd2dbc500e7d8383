"""The moments at which a run's averages are measured, and how they are drawn."""

from pathlib import Path

import pytest
from ambient.train.config import TrainConfig
from ambient.train.evaluate import plots
from ambient.train.evaluate.judge import moments_of

EVERY_FIFTH = TrainConfig.from_settings(["num_images=96", "batch_size=16", "snapshot_images=20"])


def stored(run: Path, moments: list[int]) -> Path:
    """A run with averages of two lengths at these moments."""
    (run / "ema").mkdir(parents=True)
    for moment in moments:
        for length in (0.05, 0.1):
            (run / "ema" / f"{moment:012d}-{length!r}.safetensors").touch()
    return run


def test_a_stop_does_not_move_the_moments(tmp_path: Path) -> None:
    """What was stored where a run was stopped is left out, wherever that was."""
    due = [32, 48, 64, 80, 96]
    assert moments_of(stored(tmp_path / "undisturbed", due), EVERY_FIFTH) == due
    assert moments_of(stored(tmp_path / "stopped", [16, *due]), EVERY_FIFTH) == due
    often = TrainConfig.from_settings(["num_images=960", "batch_size=10", "snapshot_images=96"])
    regular = [100, 200, 290, 390, 480, 580, 680, 770, 870, 960]
    expected = [200, 390, 580, 770, 960]
    assert moments_of(stored(tmp_path / "a", regular), often) == expected
    assert moments_of(stored(tmp_path / "b", [*regular, 190, 210, 570, 950]), often) == expected
    assert moments_of(stored(tmp_path / "unfinished", [32, 48, 60]), EVERY_FIFTH) == [32, 48, 60]


def curve(points: dict[int, float]) -> list[dict]:
    return [
        {"images": images, "frechet": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        for images, value in points.items()
    ]


def test_a_mean_in_the_plot_is_of_one_moment() -> None:
    """Of seeds with different moments those are drawn that all have."""
    seeds = {0: {"curve": curve({16: 9.0, 32: 5.0, 96: 1.0})}, 1: {"curve": curve({32: 7.0, 48: 4.0, 96: 2.0})}}
    _, axes = plots._figure()
    plots._curve({"clean": seeds}, axes)
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [32, 96]
    assert line.get_ydata().tolist() == pytest.approx([6.0, 1.5])
