"""A classifier of an earlier run, and several processes that judge by it: the same thresholds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
from ambient.curate import measure, team
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.reporter import Reporter
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import read_metadata
from photo_pool import write_photo_pool

OPTIONS = {"draws": 2, "accept_indistinguishable": True}
PROGRAM = """
import os
import ambient.curate.measure as measuring
import ambient.curate.reading as reading
from ambient.cli import main
measuring.PER_PART["cpu"] = 16
real, load, scan = measuring.write_table, measuring.load_many, reading.scan
def tell(*words):
    with open(os.environ["TOLD"], "a") as file:
        print(*words, file=file)
def write_and_tell(path, table):
    real(path, table)
    tell(os.environ["RANK"], path.stem)
def load_and_tell(*args, workers, **options):
    tell("decodes", workers)
    return load(*args, workers=workers, **options)
def scan_and_tell(*args, workers):
    tell("reads", workers)
    return scan(*args, workers=workers)
measuring.write_table, measuring.load_many, reading.scan = write_and_tell, load_and_tell, scan_and_tell
main()
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_pool(tmp_path_factory.mktemp("team") / "pool")


@pytest.fixture(scope="module")
def manifest(pool: Path) -> Path:
    path = pool.parent / "first.parquet"
    config = AnnotateConfig(clean=pool / "clean", steps=20, **OPTIONS)
    return annotate(pool, path, config, device="cpu", reporter=Reporter(quiet=True))


def by_classifier(pool: Path, manifest: Path, out: Path, **options: object) -> Path:
    config = AnnotateConfig(classifier=manifest.with_name(manifest.name + ".classifier"), **OPTIONS, **options)
    return annotate(pool, out, config, device="cpu", reporter=Reporter(quiet=True))


def test_the_classifier_of_a_run_gives_its_thresholds_again(pool: Path, manifest: Path, tmp_path: Path) -> None:
    again = by_classifier(pool, manifest, tmp_path / "again.parquet", clean=pool / "clean")
    assert pq.read_table(again).equals(pq.read_table(manifest))
    assert read_metadata(again).classifier == read_metadata(manifest).classifier


def test_without_a_clean_set_it_judges_every_picture(pool: Path, manifest: Path, tmp_path: Path) -> None:
    table, first = pq.read_table(by_classifier(pool, manifest, tmp_path / "all.parquet")), pq.read_table(manifest)
    assert set(table["role"].to_pylist()) == {"pool"}
    assert set(table["method"].to_pylist()) == {"classifier"}
    assert table["p_clean"].equals(first["p_clean"])
    clean = pc.equal(first["role"].cast("string"), "clean")
    assert pc.max(table["sigma_min"].filter(clean)).as_py() > 0


def test_a_classifier_of_other_pictures_is_refused(pool: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16x16"):
        by_classifier(pool, manifest, tmp_path / "m.parquet", resolution=8)
    with pytest.raises(UserError, match="classifier"):
        by_classifier(pool, pool / "clean" / "000.png", tmp_path / "m.parquet")


def test_two_processes_write_the_same_manifest(
    pool: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(measure.PER_PART, "cpu", 16)
    alone = by_classifier(pool, manifest, tmp_path / "one.parquet", clean=pool / "clean")
    (tmp_path / "program.py").write_text(PROGRAM)
    told, out = tmp_path / "told", tmp_path / "two.parquet"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--clean", pool / "clean", "--classifier", f"{manifest}.classifier", "--draws", "2", "--device", "cpu"]
    options += ["--workers", "3"]
    run = subprocess.run(
        [*launch, tmp_path / "program.py", "annotate", pool, "-o", out, *options, "--accept-indistinguishable"],
        env={**os.environ, "TOLD": str(told), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert pq.read_table(out).equals(pq.read_table(alone))
    assert run.stdout.count("blurred") == 1  # one of them prints the table
    parts = [line.split() for line in told.read_text().splitlines()]
    made = {rank: sorted(name for mine, name in parts if mine == rank and "curves" in name) for rank in "01"}
    assert len(made["0"]) >= 4
    assert len(made["0"]) - len(made["1"]) in (0, 1)
    assert not set(made["0"]) & set(made["1"])
    # The first reads with all workers while the others wait; each decodes with its share.
    assert {tuple(line) for line in parts if line[0] in ("reads", "decodes")} == {("reads", "3"), ("decodes", "2")}
    assert not out.with_name(out.name + ".parts").exists()


def test_an_error_of_the_leader_is_no_traceback_of_the_others(pool: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["-o", tmp_path / "m.parquet", "--clean", pool / "nowhere", "--device", "cpu"]
    run = subprocess.run(
        [*launch, "-m", "ambient.cli", "annotate", pool, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = [line for line in run.stderr.splitlines() if line.startswith("ambient: ")]
    assert run.returncode != 0
    assert any("nowhere" in line for line in said)
    assert set(said) - {line for line in said if "nowhere" in line} <= {f"ambient: {team._LOST}"}
    assert "Traceback" not in run.stderr.split("ambient: ")[0]
    assert "Connection" not in run.stderr


def test_a_last_word_of_all_is_said_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not team.first_says("wrong")  # without torchrun
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(team, "_SOON", 0.2)
            assert not team.first_says("wrong")
            patch.setenv("RANK", "0")
            assert not team.first_says("wrong")
        assert team.first_says("wrong")
        assert not team.first_says("wrong here only")
        assert team.first_says("stopped", or_another=True)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        monkeypatch.setattr(team, "_SOON", 0.2)
        assert not team.first_says("wrong")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
