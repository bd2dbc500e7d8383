"""The proofs' parts: pools, changed losses, tasks and who does them."""

import argparse
import json
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
from proof_records import run_record
from small_pool import write_pool as write_fields

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("proof")


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
        assert [name.partition("/")[0] for name in names] == ["blur-1", "jpeg-20"] * 12
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
        z = torch.randn(4, 1, 8, 8) if label in ("fresh", "plain", "kept-plain") else self.z
        sigma, s = self.sigma.view(-1, 1, 1, 1), self.s.view(-1, 1, 1, 1)
        alpha = (sigma**2 - s**2) / sigma**2
        x_n = self.w0 + s * z
        x_t = x_n + torch.sqrt(sigma**2 - s**2) * self.e
        D = 0.25 / (sigma**2 + 0.25) * x_t
        lam = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        inside = (alpha * D + (1 - alpha) * x_t - x_n) ** 2
        weight = {"unweighted": 1.0, "clip-2": (alpha**-2).clamp(max=2), "clip-4": (alpha**-2).clamp(max=4)}
        loss = lam * (D - self.w0) ** 2 if label.endswith("plain") else lam * weight.get(label, alpha**-2) * inside
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
        elif label not in ("ambient", "buffer-2", "clip-2", "kept", "source", "hi"):
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
    assert {f"{row}-{label}-0" for row in fashion.ROWS for label in ("all", "fixed", "kept")} <= set(names)
    assert {f"blur-1.0-{label}-{seed}" for label in ("all", "fixed", "kept") for seed in range(3)} <= set(names)
    assert {f"blur-0.6-{label}-{seed}" for label in ABLATIONS if label != "hi" for seed in range(3)} <= set(names)


def test_photographs_have_every_arm_and_seeds_of_the_claim() -> None:
    import photographs

    names = [job.name for job in photographs.jobs()]
    assert len(set(names)) == len(names)
    assert {f"any-clean-{seed}" for seed in range(3)} | {f"mixed-kept-{seed}" for seed in range(3)} <= set(names)
    assert {f"mixed-{label}-0" for label in ("all", "fixed", "ambient", "source", "hi")} <= set(names)
    assert "any-undamaged-0" in names


def test_arms_with_a_rule_of_their_own_have_its_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks

    monkeypatch.setattr(tasks, "AnnotateConfig", partial(AnnotateConfig, accept_indistinguishable=True))
    jobs = [tasks.Job(row="blur-1", label=label, seed=0) for label in ("kept", "source", "hi")]
    asked, proof = options(tmp_path), small_proof(jobs=jobs)
    tasks.prepare(proof, "blur-1", asked, Reporter(quiet=True))
    own, source, hi = (
        read_rows(tasks.manifest_of(proof, "blur-1", asked, job.label), roots=tasks._roots(proof, "blur-1", asked))
        for job in jobs
    )
    assert own.ids.equals(source.ids)
    assert own.ids.equals(hi.ids)
    assert len(source.sigma_min.unique()) == 2  # of the clean ones, and of the one source
    assert len(own.sigma_min.unique()) > 2
    assert bool((hi.sigma_min >= own.sigma_min).all())
    assert float(hi.sigma_min.sum()) > float(own.sigma_min.sum())
    trained = []
    monkeypatch.setattr(tasks, "train", lambda *_, **__: None)
    monkeypatch.setattr(tasks, "write_arm", lambda slim, *_: trained.append(slim))
    assert not any(tasks.work(proof, job, None, asked, lambda: True, Reporter(quiet=True)) for job in jobs)
    assert trained == [tasks.manifest_of(proof, "blur-1", asked, job.label) for job in jobs]
    assert len(set(trained)) == 3


def options(work: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "proof": "fashion",
        "images": 64,
        "samples": 8,
        "pool_size": None,
        "draws": 1,
        "steps": 4,
        "device": "cpu",
        "trainers": 1,
        "commit": "3fdef5a",
        "minutes": 10.0,
        "settings": ["batch_size=16", "network.channels=8", "network.attention_resolutions=", "sample_count=0"],
        **changes,
    }
    for name in ("claims", "failed", "results", "logs"):
        (work / name).mkdir(parents=True, exist_ok=True)
    return argparse.Namespace(work=work, **values)


def small_proof(**changes: Any) -> Any:
    """Of 60 pictures of noise, a third of them clean."""
    import tasks

    random = np.random.default_rng(0)
    pictures, held_out = (random.integers(0, 256, (num, 16, 16), dtype=np.uint8) for num in (60, 12))
    values = {
        "name": "fashion",
        "rows": {"blur-1": ["blur-1"]},
        "jobs": [tasks.Job(row="blur-1", label=label, seed=0) for label in ("clean", "ambient", "unweighted")],
        "extractor": "texture",
        "settings": [],
        **changes,
    }
    return tasks.Proof(pictures=pictures, clean=np.arange(60) % 3 == 0, held_out=held_out, **values)


def two_rows(work: Path, name: str = "fashion", **changes: Any) -> Any:
    """What is left of a proof with two rows, of which the first has the job of clean pictures only."""
    import tasks
    from todo import Todo

    jobs = [tasks.Job(row=row, label=label, seed=0) for row, label in (("a", "clean"), ("a", "ambient"), ("b", "all"))]
    proof = small_proof(name=name, rows={"a": ["blur-1"], "b": ["blur-2"]}, jobs=jobs)
    return Todo(proof=proof, jobs=jobs, options=options(work, proof=name, **changes))


def test_a_job_is_trained_measured_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fashion
    import tasks
    from docs_results import page, read_records
    from todo import Todo

    monkeypatch.setattr(tasks, "AnnotateConfig", partial(AnnotateConfig, accept_indistinguishable=True))
    asked, quiet, proof = options(tmp_path), Reporter(quiet=True), small_proof()
    jobs = proof.jobs
    tasks.prepare(proof, "blur-1", asked, quiet)
    assert (tmp_path / "annotated" / "fashion-blur-1-draws-1-steps-4").is_dir()
    judge = tasks.judge_of(proof, asked)
    assert judge.reference.moments.num == 60
    assert not tasks.work(proof, jobs[0], judge, asked, lambda: True, quiet)
    assert not list((tmp_path / "results").glob("fashion-any*"))
    assert all(tasks.work(proof, job, judge, asked, lambda: False, quiet) for job in jobs)
    read = {record["file"].removesuffix(".json"): record for record in read_records(tmp_path / "results")}
    stems = [tasks.job_stem(proof, job, asked) for job in jobs]
    assert set(read) == {*stems, "fashion-blur-1-draws-1-steps-4-annotation"}
    ambient_run, other = (read[stem] for stem in stems[1:])
    assert ambient_run["config"] == other["config"]
    assert ambient_run["commit"] == "3fdef5a"
    assert "--set network.channels=8" in ambient_run["command"]
    assert ambient_run["checkpoint"] != other["checkpoint"]
    assert set(ambient_run["known"]) == {"clean", "damaged", "damaged_unknown"}
    assert ambient_run["known"]["clean"]["mean"] != ambient_run["validation"]["mean"]
    assert other["formula"] == "lambda |alpha D + (1 - alpha) x_t - x_n|^2"
    assert {"memorised", "memorised_clean"} <= set(ambient_run["measures"])
    text = page(list(read.values()))
    assert "copies of clean pictures, %" in text
    assert "| blur-1 | unweighted |" in text
    assert "### " not in text.partition("## Annotation")[2]
    assert "results/fashion-blur-1-draws-1-steps-4-annotation.json) | 40 |" in text
    with Image.open(tmp_path / "results" / f"{stems[1]}.png") as picture:
        assert picture.size == (8 * 16, 16)
    assert Todo(proof=proof, jobs=jobs, options=asked).jobs_left() == []
    other_settings = {"images": 128}, {"samples": 9}, {"draws": 2}, {"settings": [*asked.settings, "lr=2e-3"]}
    for changes in other_settings:
        left = Todo(proof=proof, jobs=jobs, options=options(tmp_path, **changes)).jobs_left()
        assert left == (jobs[1:] if "draws" in changes else jobs), changes
    other_proofs = (
        replace(proof, name="fashion16"),
        replace(proof, pictures=255 - proof.pictures),  # as many others
        replace(proof, extractor=str(fashion.CLASSIFIER)),
    )
    for other in other_proofs:
        assert Todo(proof=other, jobs=jobs, options=asked).jobs_left() == jobs


def test_undamaged_pictures_are_an_arm_of_every_row(tmp_path: Path) -> None:
    import tasks
    from docs_results import page, read_records

    job = tasks.Job(row=tasks.UNDAMAGED, label=tasks.UNDAMAGED, seed=0)
    asked, quiet = options(tmp_path), Reporter(quiet=True)
    proof = small_proof(rows={tasks.UNDAMAGED: ["none"]}, jobs=[job])
    tasks.prepare(proof, tasks.UNDAMAGED, asked, quiet)
    pool = tmp_path / "pools" / "fashion-60-undamaged" / "pool.zip"
    with zipfile.ZipFile(pool) as archive:
        np.testing.assert_array_equal(decode(archive.read("none/000001.pgm")).pixels[:, :, 0], proof.pictures[1])
    tasks.work(proof, job, tasks.judge_of(proof, asked), asked, lambda: False, quiet)
    (record,) = read_records(tmp_path / "results")  # and none of an annotation: there was nothing to judge
    assert (record["row"], record["everywhere"], record["pictures"]) == ("any", 60, 60)
    assert "all undamaged" in page([record, run_record("blur-1.0", "ambient", 0, 2.0)])


def test_other_settings_have_other_files(tmp_path: Path) -> None:
    import tasks

    proof = small_proof()
    job, usual = proof.jobs[1], {"draws": tasks.DRAWS, "steps": tasks.STEPS, "settings": []}
    stem = tasks.job_stem(proof, job, options(tmp_path, **usual))
    assert re.fullmatch("fashion-blur-1-ambient-0-64x8-[0-9a-f]{8}", stem)
    assert stem == tasks.job_stem(replace(proof, usual_size=60), job, options(tmp_path, pool_size=60, **usual))
    assert stem != tasks.job_stem(replace(proof, settings=["lr=2e-3"]), job, options(tmp_path, **usual))
    changes = [{"images": 65}, {"samples": 9}, {"pool_size": 30}, {"draws": 1}, {"steps": 1}, {"settings": ["lr=1"]}]
    asked = [options(tmp_path, **{**usual, **change}) for change in [{}, *changes, {"settings": ["lr=2"]}]]
    assert len({tasks.job_stem(proof, job, one) for one in asked}) == len(asked)
    assert len({tasks.manifest_of(proof, "blur-1", one) for one in asked}) == 4  # what is trained on it is not in it


def test_proofs_share_a_folder_and_its_rows_names(tmp_path: Path) -> None:
    import prove

    one, other = two_rows(tmp_path), two_rows(tmp_path, "fashion16")
    one.set_ready("a")
    assert one.ready("a") and not other.ready("a")
    assert one.job_stem(one.jobs[0]) != other.job_stem(other.jobs[0])
    with prove.claimed(prove.lock_of(one.options, "train-0")):
        assert prove.running(one.options, "train-0") and not prove.running(other.options, "train-0")
    assert prove.log_of(one.options, "train-0") != prove.log_of(other.options, "train-0")


def fail() -> None:
    raise ZeroDivisionError


def test_a_task_is_done_once_and_one_that_fails_is_written_down(tmp_path: Path) -> None:
    from todo import claimed, once

    options(tmp_path)
    done = []

    def is_done() -> bool:
        return bool(done)

    with claimed(tmp_path / "claims" / "a.training"):
        assert not once(tmp_path, "a.training", is_done, lambda: done.append("a"))
    assert once(tmp_path, "a.training", is_done, fail)
    failure = tmp_path / "failed" / "a.training.txt"
    assert "ZeroDivisionError" in failure.read_text()
    assert once(tmp_path, "a.training", is_done, lambda: done.append("a"))
    assert not failure.exists()  # what it says is no longer so
    assert not once(tmp_path, "a.training", is_done, lambda: done.append("a"))
    assert done == ["a"]


def test_any_ready_row_serves_clean_pictures(tmp_path: Path) -> None:
    todo = two_rows(tmp_path)
    clean, ambient, all_of_b = todo.jobs
    assert todo.jobs_left() == todo.jobs
    assert todo.with_ready_row(clean) is None
    (tmp_path / "failed" / f"{todo.row_stem('a')}.preparing.txt").write_text("of no use")
    assert todo.jobs_left() == [clean, all_of_b]
    todo.set_ready("b")
    assert todo.with_ready_row(clean).row == "b"
    assert todo.with_ready_row(clean).name == clean.name
    assert todo.with_ready_row(ambient) is None
    todo.set_ready("a")  # it was tried again
    assert todo.jobs_left() == todo.jobs
    assert todo.with_ready_row(clean) == clean


def test_clean_pictures_are_given_up_when_no_row_can_be_made(tmp_path: Path) -> None:
    todo = two_rows(tmp_path)
    for row in ("a", "b"):
        (tmp_path / "failed" / f"{todo.row_stem(row)}.preparing.txt").write_text("of no use")
    assert todo.jobs_left() == []


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Roles and ends of the programs that would have been started."""
    import prove

    found: list[tuple[str, float]] = []

    def launch(asked: Any, role: str, end: float, *, on_gpu: bool) -> Any:
        found.append((role, end))
        return argparse.Namespace(poll=lambda: 0)

    monkeypatch.setattr(prove, "launch", launch)
    return found


def test_a_call_starts_what_does_not_run(tmp_path: Path, launched: list[tuple[str, float]]) -> None:
    import prove

    asked, roles = options(tmp_path), ["train-0", "prepare-0"]
    names = ("fashion-a.preparing.txt", "fashion-a-all-0-64x8.training.txt", "fashion16-a.preparing.txt")
    for name in names:
        (tmp_path / "failed" / name).write_text("of no use")
    prove.start(asked, roles, on_gpu=False)
    assert [role for role, _ in launched] == roles
    assert [path.name for path in (tmp_path / "failed").iterdir()] == [names[2]]
    end = launched[0][1]
    assert end == pytest.approx(time.time() + 600, abs=60)
    (tmp_path / "failed" / names[1]).write_text("of the program that runs")
    with prove.claimed(prove.lock_of(asked, "train-0")):
        prove.start(options(tmp_path, minutes=99.0), roles, on_gpu=False)
        with prove.claimed(prove.lock_of(asked, "prepare-0")):
            prove.start(asked, roles, on_gpu=False)
    assert launched[2:] == [("prepare-0", end)]
    assert (tmp_path / "failed" / names[1]).exists()


def test_a_call_after_the_end_begins_anew(tmp_path: Path, launched: list[tuple[str, float]]) -> None:
    import prove

    asked = options(tmp_path)
    (tmp_path / "claims" / "fashion.end").write_text(str(time.time() - 1))
    prove.start(asked, ["train-0"], on_gpu=False)
    prove.start(asked, ["train-0"], on_gpu=False)
    assert launched[0][1] > time.time()
    assert launched[0] == launched[1]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs that would have been done, in trainings that take no time."""
    import compiling
    import prove
    import tasks

    found: list[str] = []
    monkeypatch.setattr(compiling, "warm_up", lambda *_: None)
    monkeypatch.setattr(tasks, "judge_of", lambda *_: None)
    monkeypatch.setattr(tasks, "work", lambda proof, job, *_: found.append(f"{job.row} {job.label}"))
    monkeypatch.setattr(prove, "_POLL_S", 0.01)
    return found


def test_no_training_starts_that_cannot_end(tmp_path: Path, done: list[str]) -> None:
    import prove

    todo, said = two_rows(tmp_path, end=time.time() + 90), []
    for row in ("a", "b"):
        todo.set_ready(row)
    todo.note_seconds(100.0)
    todo.note_seconds(10.0)
    prove.train_jobs(todo, Reporter(quiet=True), said.append)
    assert done == []
    assert said[-1] == "jobs left: 3; no time for one more, which takes 100 s"


def test_programs_that_end_together_all_note_their_seconds(tmp_path: Path) -> None:
    todo = two_rows(tmp_path)
    assert todo.longest_s() == 0
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(todo.note_seconds, map(float, range(400))))
    assert todo.longest_s() == 399


def test_jobs_are_done_in_order_and_those_of_a_failed_row_left(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import prove
    import tasks
    from todo import Todo

    def prepare(proof: Any, row: str, *_: Any) -> None:
        if row == "a":
            fail()

    todo = two_rows(tmp_path, end=time.time() + 90)
    monkeypatch.setattr(tasks, "prepare", prepare)
    monkeypatch.setattr(Todo, "recorded", lambda self, job: any(job.label in name for name in done))
    prove.prepare_rows(todo, Reporter(quiet=True), lambda _: None)
    prove.train_jobs(todo, Reporter(quiet=True), lambda _: None)
    assert done == ["b clean", "b all"]


def test_a_call_ends_before_it_is_cut_off() -> None:
    from prove import build_parser

    assert build_parser().get_default("wait") <= 520


def test_what_is_packed_is_unpacked_elsewhere(tmp_path: Path) -> None:
    from packing import pack, unpack

    for name in ("results/a.json", "manifests/b.parquet", "logs/c.txt", "runs/d"):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    pack(tmp_path / "work", tmp_path / "out")
    (tmp_path / "again" / "results").mkdir(parents=True)
    unpack(tmp_path / "out", tmp_path / "again")
    found = {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*")}
    assert found == {"results/a.json", "manifests/b.parquet"}


def test_finished_records_go_into_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import docs_results
    from prove import write_down

    work, results, page = tmp_path / "results", tmp_path / "recorded", tmp_path / "page.md"
    work.mkdir()
    results.mkdir()
    records = [run_record("any", "clean", seed, 1.0, proof=name) for seed, name in enumerate(("fashion", "fashion16"))]
    for record in records:
        (work / record["file"]).write_text(json.dumps(record))
        (work / record["file"]).with_suffix(".png").touch()
    (work / "fashion-half.json.partial").touch()
    monkeypatch.setattr(docs_results, "draw_all", lambda *_: {})
    write_down(tmp_path, "fashion", results, page)
    assert {path.name for path in results.iterdir()} == {"fashion-any-clean-0.json", "fashion-any-clean-0.png"}
    assert "| any | 1.000 +- 0.020 (1) |" in page.read_text()


def test_without_git_no_commit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from commands import commit

    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_a_file_too_large_to_come_back_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import packing

    monkeypatch.setattr(packing, "MOST", 10_000)
    for name in ("results", "manifests"):
        (tmp_path / "work" / name).mkdir(parents=True)
        size = 100 if name == "results" else 20_000
        (tmp_path / "work" / name / "a").write_bytes(np.random.default_rng(0).bytes(size))
    packing.pack(tmp_path / "work", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.tgz", "manifests.tgz"}
    results, manifests = capsys.readouterr().out.splitlines()
    assert "WARNING" not in results
    assert "WARNING" in manifests and "TOO LARGE" in manifests
