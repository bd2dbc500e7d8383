"""The proofs' parts: pools, changed losses, tasks and who does them, and the page that is made of recorded results."""

import argparse
import json
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import ambient
import numpy as np
import pytest
import torch
from ambient.curate.annotate import AnnotateConfig
from ambient.curate.corruptions import parse
from ambient.curate.images import decode
from ambient.curate.reporter import Reporter
from ambient.train import loop
from ambient.train.batches import Batch
from ambient.train.config import TrainConfig
from ambient.train.rows import read_rows
from ambient.train.state import new_state
from ambient.train.target import fixed_noise, fresh_noise
from ambient.train.world import World
from PIL import Image
from small_pool import write_pool as write_fields

CPU = torch.device("cpu")
NAMES = ("pools", "ablations", "tasks", "fashion", "photographs", "prove", "docs_results", "results_plots")


@pytest.fixture(autouse=True)
def proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(ambient.__file__).parent / "benchmarks" / "proof"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_pools_hold_what_they_say(tmp_path: Path) -> None:
    from pools import write_pool

    pictures = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    clean = np.arange(30) % 5 == 0
    paths = write_pool(tmp_path / "a", pictures, ["blur-1", "jpeg-20"], clean=clean)
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.namelist() == [f"clean/{row:06d}.ppm" for row in range(0, 30, 5)]
        np.testing.assert_array_equal(decode(archive.read("clean/000005.ppm")).pixels, pictures[5])
    with zipfile.ZipFile(paths[1]) as archive:
        names = archive.namelist()
        assert [name.partition("/")[0] for name in names] == ["blur-1"] * 12 + ["jpeg-20"] * 12
        expected, _ = parse("blur-1")(pictures[1], np.random.default_rng())
        np.testing.assert_array_equal(decode(archive.read("blur-1/000001.ppm")).pixels, expected)
    again = write_pool(tmp_path / "b", pictures, ["blur-1", "jpeg-20"], clean=clean)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


class Losses:
    """Of one batch: what is trained, and by hand w_0, z, e, x_t and D of the formulas, (4, 1, 8, 8)."""

    sigma, s = torch.tensor([0.6, 1.0, 3.0, 1.0]), torch.tensor([0.5, 0.5, 0.5, 0.0])

    def __init__(self, folder: Path) -> None:
        if not (folder / "manifest.parquet").exists():
            write_fields(folder)
        self.rows = read_rows(folder / "manifest.parquet")
        self.w0 = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        number = torch.arange(4)
        self.e = fresh_noise(number, (1, 8, 8), seed=0)
        self.z = fixed_noise(self.rows.names[:4], (1, 8, 8), seed=0)

    def of(self, change: Any) -> torch.Tensor:
        settings = [f"{key}={value}" for key, value in change.settings.items()]
        config = TrainConfig.from_settings(["network.channels=8", "network.multipliers=1", *settings])
        state, number = new_state(config, self.rows.space, World(rank=0, size=1, device=CPU)), torch.arange(4)
        columns = {"sigma": self.sigma, "s": self.s, "names": self.rows.names[:4]}
        batch = Batch(indices=number, rows=number, use=number, condition=None, **columns)
        undo = change.patch()
        torch.manual_seed(0)
        found = loop.loss_of(state, batch, self.w0, self.rows, config, CPU)["trained"]
        undo()
        return found

    def by_hand(self, label: str) -> torch.Tensor:
        """From the formula in words; D of a network that says 0 is c_skip x_t."""
        torch.manual_seed(0)
        z = torch.randn(4, 1, 8, 8) if label in ("fresh", "plain") else self.z
        sigma, s = self.sigma.view(-1, 1, 1, 1), self.s.view(-1, 1, 1, 1)
        alpha = (sigma**2 - s**2) / sigma**2
        x_n = self.w0 + s * z
        x_t = x_n + torch.sqrt(sigma**2 - s**2) * self.e
        D = 0.25 / (sigma**2 + 0.25) * x_t
        lam = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        inside = (alpha * D + (1 - alpha) * x_t - x_n) ** 2
        weight = {"unweighted": 1.0, "clip-2": (alpha**-2).clamp(max=2), "clip-4": (alpha**-2).clamp(max=4)}
        loss = lam * (D - self.w0) ** 2 if label == "plain" else lam * weight.get(label, alpha**-2) * inside
        return loss.mean(dim=(1, 2, 3))


def test_ablations_train_what_their_formulas_say(tmp_path: Path) -> None:
    from ablations import ABLATIONS

    losses, found = Losses(tmp_path), {}
    for label, change in ABLATIONS.items():
        found[label] = losses.of(change)
        torch.testing.assert_close(found[label], losses.by_hand(label), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses.of(ABLATIONS["ambient"]), found["ambient"])  # nothing is left behind
    for label in ABLATIONS:
        same = (found[label] - found["ambient"]).abs() < 1e-6
        assert bool(same[3])  # with s = 0 all are alike
        if label == "clip-4":  # at sigma 1, alpha^-2 is 1.8: no clip cuts it
            assert same.tolist() == [False, True, True, True]
        elif label not in ("ambient", "buffer-2", "clip-2"):
            assert same.tolist() == [False, False, False, True], label


def test_the_buffer_decides_what_is_drawn(tmp_path: Path) -> None:
    from ablations import ABLATIONS

    write_fields(tmp_path)
    rows = read_rows(tmp_path / "manifest.parquet")
    lowest = {}
    for label in ("ambient", "buffer-2"):
        settings = [f"{key}={value}" for key, value in ABLATIONS[label].settings.items()]
        row, sigma = loop.build_sampler(rows, TrainConfig.from_settings(settings)).draw(torch.arange(20_000))
        lowest[label] = float(sigma[rows.sigma_min[row] > 0].min()) / 0.5
    assert lowest == {"ambient": pytest.approx((4 / 3) ** 0.5, rel=0.01), "buffer-2": pytest.approx(2**0.5, rel=0.01)}


def test_every_row_has_every_arm() -> None:
    import fashion
    from ablations import ABLATIONS

    names = [job.name for job in fashion.jobs()]
    assert len(set(names)) == len(names)
    assert {f"any-clean-{seed}" for seed in range(3)} <= set(names)
    assert {f"{row}-{label}-0" for row in fashion.ROWS for label in ("all", "fixed", "ambient")} <= set(names)
    assert {f"blur-1.0-{label}-{seed}" for label in ("all", "fixed", "ambient") for seed in range(3)} <= set(names)
    assert {f"blur-0.6-{label}-0" for label in ABLATIONS} <= set(names)


def options(work: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "images": 64,
        "samples": 8,
        "draws": 1,
        "steps": 4,
        "device": "cpu",
        "command": "python prove.py",
        **changes,
    }
    settings = ["batch_size=16", "network.channels=8", "network.attention_resolutions=", "sample_count=0"]
    return argparse.Namespace(work=work, settings=settings, **values)


def test_a_job_is_trained_measured_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks
    from docs_results import page

    monkeypatch.setattr(tasks, "AnnotateConfig", partial(AnnotateConfig, accept_indistinguishable=True))
    random = np.random.default_rng(0)
    pictures, held_out = (random.integers(0, 256, (num, 16, 16), dtype=np.uint8) for num in (60, 12))
    jobs = [tasks.Job(row="blur-1", label=label, seed=0) for label in ("clean", "ambient", "unweighted")]
    proof = tasks.Proof(
        name="tiny",
        pictures=pictures,
        clean=np.arange(60) % 3 == 0,
        held_out=held_out,
        rows={"blur-1": ["blur-1"]},
        jobs=jobs,
        extractor="texture",
        settings=[],
    )
    asked, quiet = options(tmp_path), Reporter(quiet=True)
    (tmp_path / "results").mkdir()
    tasks.prepare(proof, "blur-1", asked, quiet)
    judge = tasks.judge_of(proof, asked)
    assert judge.reference.moments.num == 60
    assert not tasks.work(proof, jobs[0], judge, asked, lambda: True, quiet)
    assert not list((tmp_path / "results").glob("tiny-any*"))
    assert all(tasks.work(proof, job, judge, asked, lambda: False, quiet) for job in jobs)
    read = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")}
    assert set(read) == {
        "tiny-any-clean-0",
        "tiny-blur-1-ambient-0",
        "tiny-blur-1-unweighted-0",
        "tiny-blur-1-annotation",
    }
    ambient_run, other = read["tiny-blur-1-ambient-0"], read["tiny-blur-1-unweighted-0"]
    assert ambient_run["config"] == other["config"]
    assert ambient_run["checkpoint"] != other["checkpoint"]
    assert set(ambient_run["known"]) == {"clean", "damaged", "damaged_unknown"}
    assert ambient_run["known"]["clean"]["mean"] != ambient_run["validation"]["mean"]
    assert other["formula"] == "lambda |alpha D + (1 - alpha) x_t - x_n|^2"
    text = page(list(read.values()))
    assert "| blur-1 | unweighted |" in text
    assert "### " not in text.partition("## Annotation")[2]
    assert "| tiny | blur-1 | 40 |" in text
    with Image.open(tmp_path / "results" / "tiny-blur-1-ambient-0.png") as picture:
        assert picture.size == (8 * 16, 16)


def test_a_task_is_done_once_and_one_that_fails_is_written_down(tmp_path: Path) -> None:
    import prove

    for name in ("claims", "failed", "results", "logs"):
        (tmp_path / name).mkdir()
    asked, done = options(tmp_path), []
    with prove.claimed(tmp_path / "claims" / "a.training"):
        assert not prove.once(asked, "a.training", "../results/a.json", lambda: done.append("a"))
    assert prove.once(asked, "a.training", "../results/a.json", lambda: (tmp_path / "results" / "a.json").touch())
    assert not prove.once(asked, "a.training", "../results/a.json", lambda: done.append("a"))
    assert done == []
    assert prove.once(asked, "b.training", "../results/b.json", lambda: 1 / 0)
    assert "ZeroDivisionError" in (tmp_path / "failed" / "b.training.txt").read_text()


def test_what_is_packed_is_unpacked_elsewhere(tmp_path: Path) -> None:
    import prove

    for name in ("results/a.json", "manifests/b.parquet", "logs/c.txt", "runs/d"):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    prove.pack(tmp_path / "work", tmp_path / "out")
    (tmp_path / "again" / "results").mkdir(parents=True)
    prove.unpack(tmp_path / "out", tmp_path / "again")
    found = {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*")}
    assert found == {"results/a.json", "manifests/b.parquet"}


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
        "images_per_s": 1000.0,
        "judged_s": 10.0,
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
    assert "| blur-1.0 | 11 +- 1.7 (3) |  |  | 6 +- 1.7 (3) |" in text
    assert "| blur-0.6 | 11 +- 1.7 (3) |  |  | 4 +- 0.02 (1) |" in text
    assert "| blur-1.0 | clean only | -5 | -45.5 % |" in text
    assert r"`lambda \|D - w_0\|^2" in text
    assert "| blur-1.0 | ambient | 0.500 | 1.000 |" in text
    assert "[fashion-any-clean-2](../benchmarks/proof/results/fashion-any-clean-2.json)" in text
    assert "## Annotation" not in text
    assert text.count("## fashion, 1,000 training pictures, 100 samples") == 1
    other = page([*records, {**run_record("blur-1.0", "all", 0, 1.0), "config": {"num_images": 2000}}])
    assert "| 1 +- " not in other.partition("2,000 training")[0]
