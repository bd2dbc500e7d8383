"""The proofs' parts: pools, changed losses, and the page that is made of recorded results."""

import sys
import zipfile
from pathlib import Path

import ambient
import numpy as np
import pytest
import torch
from ambient.curate.corruptions import parse
from ambient.curate.images import decode
from ambient.train import loop
from ambient.train.batches import Batch
from ambient.train.config import TrainConfig
from ambient.train.rows import read_rows
from ambient.train.state import new_state
from ambient.train.world import World
from small_pool import write_pool as write_fields

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(ambient.__file__).parent / "benchmarks" / "proof"))
    for name in ("pools", "prove", "fashion", "ablations", "docs_results"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_pools_hold_what_they_say(tmp_path: Path) -> None:
    from pools import write_pool

    pictures = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    clean = np.arange(30) % 5 == 0
    paths = write_pool(tmp_path / "a", pictures, ["blur-1", "jpeg-20"], clean=clean, workers=2)
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.namelist() == [f"clean/{row:06d}.ppm" for row in range(0, 30, 5)]
        np.testing.assert_array_equal(decode(archive.read("clean/000005.ppm")).pixels, pictures[5])
    with zipfile.ZipFile(paths[1]) as archive:
        names = archive.namelist()
        assert [name.partition("/")[0] for name in names] == ["blur-1"] * 12 + ["jpeg-20"] * 12
        expected, _ = parse("blur-1")(pictures[1], np.random.default_rng())
        np.testing.assert_array_equal(decode(archive.read("blur-1/000001.ppm")).pixels, expected)
    again = write_pool(tmp_path / "b", pictures, ["blur-1", "jpeg-20"], clean=clean, workers=1)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def losses(tmp_path: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Of one batch of an untrained network, and its alpha."""
    rows = read_rows(tmp_path / "manifest.parquet")
    config = TrainConfig.from_settings(["network.channels=8", "network.multipliers=1"])
    state = new_state(config, rows.space, World(rank=0, size=1, device=CPU))
    sigma, s = torch.tensor([0.6, 1.0, 3.0, 1.0]), torch.tensor([0.5, 0.5, 0.5, 0.0])
    number = torch.arange(4)
    batch = Batch(indices=number, rows=number, names=rows.names[:4], sigma=sigma, s=s, use=number, condition=None)
    w0 = torch.rand(4, *rows.space.shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return loop.loss_of(state, batch, w0, rows, config, CPU), 1 - (s / sigma) ** 2


def test_ablations_change_the_loss_as_their_formulas_say(tmp_path: Path) -> None:
    from ablations import ABLATIONS, fresh, job_of, weighted

    write_fields(tmp_path)
    plain, alpha = losses(tmp_path)
    torch.testing.assert_close(plain["trained"], plain["weighted"])
    for clip in (1.0, 2.0, 4.0):
        undo = weighted(clip)()
        changed, _ = losses(tmp_path)
        undo()
        expected = alpha**2 * torch.minimum(alpha**-2, torch.tensor(clip)) * plain["weighted"]
        torch.testing.assert_close(changed["trained"], expected)
    undo = fresh()
    other, _ = losses(tmp_path)
    undo()
    same = (other["weighted"] - plain["weighted"]).abs() < 1e-6
    assert same.tolist() == [False, False, False, True]  # with s = 0 there is no z
    torch.testing.assert_close(losses(tmp_path)[0]["trained"], plain["trained"])
    assert job_of("plain", 1).changes == {"target": "plain"}
    assert job_of("source", 0).per == "source"
    assert all(job_of(name, 2).label == name for name in ABLATIONS)


def run_record(row: str, label: str, seed: int, frechet: float) -> dict:
    def measured(value: float) -> dict[str, float]:
        return {"value": value, "error": 0.01, "low": value - 0.02, "high": value + 0.02}

    names = ("kernel", "precision", "recall", "density", "coverage", "memorised")
    return {
        "proof": "fashion",
        "row": row,
        "label": label,
        "arm": label,
        "seed": seed,
        "samples": 100,
        "config": {"num_images": 1000},
        "measures": {"frechet": measured(frechet), **{name: measured(0.5) for name in names}},
        "validation": {"sigma": [0.1, 1.0], "mean": [0.02 * frechet, 0.3], "error": [0.001, 0.01]},
        "sigma_min_mean": 1.5,
        "train_s": 10.0,
        "date": "2026-01-01",
        "hardware": "a machine",
        "torch": "2",
        "command": "python benchmarks/proof/fashion.py",
    }


def test_the_page_is_made_of_the_records() -> None:
    from docs_results import page

    records = [run_record("any", "clean", seed, 10.0 + seed) for seed in range(3)]
    records += [run_record("blur-1.0", "ambient", seed, 5.0 + seed) for seed in range(3)]
    records += [run_record("blur-0.6", "ambient", 0, 4.0), run_record("blur-0.6", "plain", 0, 4.1)]
    text = page(records)
    assert "| blur-1.0 | 11 +- 1.7 (3) |  |  | 6 +- 1.7 (3) | 1.50 |" in text
    assert "| blur-0.6 | 11 +- 1.7 (3) |  |  | 4 +- 0.02 (1) | 1.50 |" in text
    assert "- blur-1.0: ambient is better than clean only: Frechet distance -5 (" in text
    assert r"`lambda \|D - w_0\|^2" in text
    assert "| blur-1.0 | ambient | 0.500 | 1.000 |" in text
    assert "[fashion-any-clean-2](../benchmarks/proof/results/fashion-any-clean-2.json)" in text
    assert "## Annotation" not in text
    assert text.count("## fashion, 1,000 training pictures, 100 samples") == 1
    other = page([*records, {**run_record("blur-1.0", "all", 0, 1.0), "config": {"num_images": 2000}}])
    assert "| 1 +- " not in other.partition("2,000 training")[0]
