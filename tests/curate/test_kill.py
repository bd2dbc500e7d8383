"""Runs that are killed at any moment, disturbed by each other, or slow."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ambient.curate import pool as reading
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.pool import find, scan
from ambient.curate.reporter import Reporter
from ambient.schemas.errors import UserError
from little_clip import write_little_clips
from photo_pool import write_photo_pool
from shards import png, write_tar
from zygote import ended, start, zygote

KILLS = {"run": 30, "update": 15, "team": 4, "score": 15}
SLOWLY = """
import sys, time
from pathlib import Path
import pyarrow.parquet as pq
def slowly(*arguments, write=pq.ParquetWriter.write_table, **options):
    write(*arguments, **options)
    time.sleep(0.05)
pq.ParquetWriter.write_table = slowly
"""
"""Files take so long to write that a kill hits some halfway."""

ANNOTATE = """
import torch
import torch._dynamo
import ambient.curate.annotate as stages
from ambient.curate import calibrate, fit, measure, parallel, reading
from ambient.curate.reporter import Reporter
reading.RECORDS_PER_PART = measure.PER_PART["cpu"] = 8
parallel.MANY, parallel._PER_TASK = 1, 2
fit._START_VALUES, calibrate._PAIRS = 1, 1024

def run(pool, out, update=False, workers=0):
    torch.set_num_threads(1)
    config = stages.AnnotateConfig(
        clean=Path(pool, "clean"), steps=1, draws=1, resolution=8, accept_indistinguishable=True
    )
    stages.annotate(Path(pool), Path(out), config, device="cpu", workers=workers, update=update,
                    reporter=Reporter(quiet=True))
"""
"""Little parts, each for several tasks of the processes that read, and a training that takes no longer than the rest.

The optimiser wants torch._dynamo, which takes a second to import. Threads are set in each run: after a fork PyTorch
makes its pool of them anew when first asked for it, and fails where two threads ask at once.
"""

SCORE = """
import torch
import open_clip
from ambient.curate import parallel, reading, scoring
from ambient.curate.networks import ScoreConfig, load_networks
from ambient.curate.openclip import ClipConfig
from ambient.curate.reporter import Reporter
scoring.ROWS_PER_PART = reading.RECORDS_PER_PART = 4
parallel.MANY, parallel._PER_TASK = 1, 2
clips = Path(sys.argv[1])
open_clip.add_model_config(clips / "little-vit.json")
network = ClipConfig(model="little-vit", weights=str(clips / "little-vit.pt"))
config = ScoreConfig(by=("phash", "clipiqa", "clipscore", "clip_embedding", "piqe"), clip=network)
load_networks(config, torch.device("cpu"))

def run(pool, out, workers=0):
    torch.set_num_threads(1)
    scoring.score_target(Path(pool), Path(out), config, device="cpu", workers=workers, reporter=Reporter(quiet=True))
"""
"""The same for scores by little networks."""


@pytest.fixture(scope="module")
def annotating() -> Iterator[subprocess.Popen]:
    with zygote(SLOWLY + ANNOTATE) as process:
        yield process


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


def start_over(folder: Path, files: dict[str, bytes]) -> None:
    """Leave these files alone in it, and the folders."""
    for path in filter(Path.is_file, folder.iterdir()):
        path.unlink()
    for name in filter(files.get, files):
        (folder / name).write_bytes(files[name])


def whole_run(process: subprocess.Popen, **options: object) -> float:
    """Its seconds."""
    began = time.monotonic()
    start(process, **options)
    assert set(ended(process)) == {0}
    return time.monotonic() - began


def stage_of(parts: Path) -> str:
    """The newest kind of part that is there."""
    return next((stage for stage in ("curves", "classifier", "scores", "records") if any(parts.glob(f"{stage}*"))), "")


def undisturbed(
    process: subprocess.Popen, folder: Path, **options: object
) -> tuple[dict[int, float], dict[str, bytes]]:
    """Seconds of whole runs that read with so many processes of their own, and the files that all of them leave."""
    before, lengths, left = files_in(folder), {}, []
    for workers in (0, 2):
        lengths[workers] = whole_run(process, workers=workers, **options)
        left.append(files_in(folder))
        start_over(folder, before)
    assert left[0] == left[1]
    return lengths, left[0]


def kill_runs(process: subprocess.Popen, kills: int, out: Path, *, size: int = 1, **options: object) -> None:
    """Kill so many runs at random moments, in turn in each quarter of the length of an undisturbed one; let one end.

    Each goes on where the one before was killed, until one ends by itself: then every byte is right, no part is left,
    and the next starts over. Every third that is killed reads with two processes of its own.
    """
    options |= {"out": str(out), "size": size}
    before, moments, stages = files_in(out.parent), random.Random(1), []
    lengths, expected = undisturbed(process, out.parent, **options)
    for attempt in range(10 * kills):
        workers, victim, is_whole = 0 if len(stages) % 3 else 2, len(stages) % size, files_in(out.parent) == before
        began, after_s = time.monotonic(), lengths[workers] * (attempt % 4 + moments.random()) / 4
        start(process, after_s=after_s, victim=victim, workers=workers, **options)
        ends = ended(process)
        if ends[victim] == -signal.SIGKILL:
            stages.append(stage_of(out.with_name(out.name + ".parts")))
            if len(stages) == kills:
                break
        elif set(ends) == {0}:
            assert files_in(out.parent) == expected
            start_over(out.parent, before)
            if is_whole:  # the machine was busier before
                lengths[workers] = time.monotonic() - began
        else:  # it had ended, and another of its team had not
            assert size > 1
            assert ends[victim] == 0
    assert len(stages) == kills
    assert len(set(stages)) > 1, stages
    whole_run(process, **options)
    assert files_in(out.parent) == expected


@pytest.mark.parametrize("mode", ["run", "update", "team"])
def test_killed_at_random_times_the_manifest_is_that_of_an_undisturbed_run(
    annotating: subprocess.Popen, tmp_path: Path, mode: str
) -> None:
    """Of a team of two processes one is killed, in turn, and the other ended, as torchrun does."""
    pool, out = write_photo_pool(tmp_path / "pool", clean=10, per_blur=8), tmp_path / "m.parquet"
    if mode == "update":
        whole_run(annotating, pool=str(pool), out=str(out))
        write_tar(pool / "new.tar", {f"{n}.png": png(n) for n in range(20)})
    size = 2 if mode == "team" else 1
    kill_runs(annotating, KILLS[mode], out, size=size, pool=str(pool), update=mode == "update")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.parquet", "m.parquet.classifier", "pool"]


def test_scores_of_a_run_that_is_killed_at_random_times_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Whatever moment it dies at, in the middle of a part or between two: byte for byte, and no part is left behind."""
    pool, out, clips = write_photo_pool(tmp_path / "pool", clean=10, per_blur=8), tmp_path / "s.parquet", tmp_path / "c"
    for number, path in enumerate(sorted(pool.rglob("*.png"))):
        path.with_suffix(".txt").write_text(f"number {number}")
    clips.mkdir()
    write_little_clips(clips)
    with zygote(SLOWLY + SCORE, clips) as process:
        kill_runs(process, KILLS["score"], out, pool=str(pool))
    assert pq.read_table(out)["clipscore"].null_count == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "pool", "s.parquet"]


def test_two_runs_on_one_output_refuse_each_other(annotating: subprocess.Popen, tmp_path: Path) -> None:
    """The second finds the first at work, whatever it would do itself."""
    pool, out = write_photo_pool(tmp_path / "pool", clean=10, per_blur=8), tmp_path / "m.parquet"
    (victim,) = start(annotating, pool=str(pool), out=str(out))
    until = time.monotonic() + 60
    while not (tmp_path / "m.parquet.parts" / "records-000000.parquet").exists():
        assert time.monotonic() < until
        time.sleep(0.002)
    os.kill(victim, signal.SIGSTOP)
    for resolution in (8, 16):
        config = AnnotateConfig(clean=pool / "clean", steps=1, draws=1, resolution=resolution)
        with pytest.raises(UserError, match="another run is writing"):
            annotate(pool, out, config, device="cpu", reporter=Reporter(quiet=True))
    os.kill(victim, signal.SIGCONT)
    assert ended(annotating) == [0]
    assert len(pq.read_table(out)) == 26


def test_a_slow_picture_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are read meanwhile, within the window, and the rows come in order, the slow one's too."""
    for number in range(12):
        (tmp_path / f"{number:02d}.png").write_bytes(png(number))
    real, slow, done = reading.decode, png(1), []

    def decode(data: bytes):
        if data == slow:
            time.sleep(0.5)
        done.append(data)
        return real(data)

    monkeypatch.setattr(reading, "decode", decode)
    roots = {"pool": str(tmp_path)}
    rows = list(scan(find(roots), roots, workers=3))
    assert [row["uri"] for row in rows] == [f"{number:02d}.png" for number in range(12)]
    assert {row["status"] for row in rows} == {"ok"}
    assert done.index(slow) == 11


def test_a_shard_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(3)})
    write_tar(tmp_path / "b.tar", {"0.png": png(9)})
    roots = {"pool": str(tmp_path)}
    found = find(roots)
    (tmp_path / "a.tar").unlink()
    rows = list(scan(found, roots, workers=0))
    assert [row["status"] for row in rows] == ["unreadable"] * 3 + ["ok"]
    assert all("No such file" in row["reason"] for row in rows[:3])
