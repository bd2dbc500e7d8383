"""The moments at which a run's averages are measured, how they are drawn, and what is written down of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ambient.curate.reporter import Reporter
from ambient.train.config import TrainConfig
from ambient.train.evaluate import judge as module
from ambient.train.evaluate import plots
from ambient.train.evaluate.distances import moments
from ambient.train.evaluate.extractors import features_of, open_extractor
from ambient.train.evaluate.judge import Judge, Shown, judge_run, moments_of
from ambient.train.evaluate.reference import Reference
from ambient.train.generate import SampleConfig, generate
from torch import Tensor
from trained_run import write_run

QUIET = Reporter(quiet=True)
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


@pytest.fixture
def pictures() -> Tensor:
    """(12, 3, 8, 8) uint8, of which none is like another or its mirror image."""
    return torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def judge_of(pictures: Tensor, device: str = "cpu", **changes: int) -> Judge:
    extractor = open_extractor("texture", torch.device(device))
    features = features_of(pictures, extractor)
    shown = Shown(pixels=pictures, names=torch.arange(12), labels=torch.full((12,), -1))
    return Judge(
        extractor=extractor,
        reference=Reference(moments=moments(features), features=features),
        fingerprint="",
        real=pictures,
        held_out=shown,
        taught=shown,
        clean=pictures,
        **{"num": 12, **changes},
    )


@pytest.mark.parametrize("flip", [False, True])
def test_mirrored_pictures_are_copies_where_training_mirrored(
    flip: bool, pictures: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stored(write_run(tmp_path / "run", flip=flip), [100])
    monkeypatch.setattr(module, "draw", lambda trained, num, device: pictures.flip(3))
    found = judge_run(run, judge_of(pictures), pictures, workers=0, reporter=QUIET)["measures"]
    assert [found[name]["value"] for name in ("memorised", "memorised_clean")] == [flip, flip]


def test_what_is_written_down_draws_the_same_pictures(pictures: Tensor, tmp_path: Path) -> None:
    run = stored(write_run(tmp_path / "run"), [100])
    found = judge_run(run, judge_of(pictures, num=9, seed=3), pictures, workers=0, reporter=QUIET)
    assert found["judge_seed"] == 3
    assert found["drawn"] == {"seeds": "0-8", "ema_std": 0.05, "solver": "heun", "steps": 18}
    how = SampleConfig(solver=found["drawn"]["solver"], steps=found["drawn"]["steps"])
    npz = generate(run, tmp_path / "s.npz", range(9), how, npz=True, batch_size=9, device="cpu", reporter=QUIET)
    np.testing.assert_array_equal(found["first"].permute(0, 2, 3, 1).numpy(), np.load(npz)["arr_0"])


@pytest.mark.gpu
def test_cuda_measures_what_the_cpu_measures(pictures: Tensor, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run = stored(write_run(tmp_path / "run"), [100])
    there, here = (
        judge_run(run, judge_of(pictures, device), pictures, workers=0, reporter=QUIET) for device in ("cuda", "cpu")
    )
    assert (there["first"].float() - here["first"].float()).abs().mean() < 2
    for name, measured in here["measures"].items():
        assert there["measures"][name]["value"] == pytest.approx(measured["value"], rel=0.03, abs=0.01), name
    for name in ("validation", "validation_taught"):
        assert there[name]["mean"] == pytest.approx(here[name]["mean"], rel=0.03)
