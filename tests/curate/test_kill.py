"""Runs that are killed at any moment, disturbed by each other, or slow."""

import contextlib
import os
import random
import signal
import subprocess
import sys
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

KILLS = {"run": 20, "update": 10, "score": 15}
ANNOTATE = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import torch._dynamo
import ambient.curate.annotate as stages
from ambient.curate import measure, reading
from ambient.curate.reporter import Reporter
reading.RECORDS_PER_PART = measure.PER_PART["cpu"] = 8
pool, out = Path(sys.argv[1]), Path(sys.argv[2])
config = stages.AnnotateConfig(clean=pool / "clean", steps=3, draws=1, resolution=8, accept_indistinguishable=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        stages.annotate(pool, out, config, device="cpu", workers=0, overwrite=False, update=line == "update\\n",
                        reporter=Reporter(quiet=True))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports what takes seconds to import (the optimiser wants torch._dynamo), then starts a run for each line.

Prints its number, then how it ended.
"""

SCORE = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import open_clip
from ambient.curate import reading, scoring
from ambient.curate.networks import ScoreConfig, load_networks
from ambient.curate.openclip import ClipConfig
from ambient.curate.reporter import Reporter
scoring.ROWS_PER_PART = reading.RECORDS_PER_PART = 4
pool, out, clips = map(Path, sys.argv[1:])
open_clip.add_model_config(clips / "little-vit.json")
network = ClipConfig(model="little-vit", weights=str(clips / "little-vit.pt"))
config = ScoreConfig(by=("phash", "clipiqa", "clipscore", "clip_embedding", "piqe"), clip=network)
load_networks(config, torch.device("cpu"))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        scoring.score_target(pool, out, config, device="cpu", workers=0, reporter=Reporter(quiet=True))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""The same for scores by little networks."""


@contextlib.contextmanager
def zygote(script: str, *paths: Path) -> Iterator[subprocess.Popen]:
    arguments = [sys.executable, "-c", script, *map(str, paths)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.stdin.close()


def start(process: subprocess.Popen, line: str = "run") -> int:
    process.stdin.write(line + "\n")
    return int(process.stdout.readline())


def ended(process: subprocess.Popen) -> int:
    return int(process.stdout.readline())


@pytest.mark.parametrize("mode", ["run", "update"])
def test_killed_at_random_times_the_manifest_is_that_of_an_undisturbed_run(tmp_path: Path, mode: str) -> None:
    """Whatever moment a run dies at, the next goes on; when one ends, every byte is right, and it starts again."""
    pool, out = write_photo_pool(tmp_path / "pool", clean=10, per_blur=8), tmp_path / "m.parquet"
    moments, finished = random.Random(0), 0
    with zygote(ANNOTATE, pool, out) as process:
        start(process)
        assert ended(process) == 0
        first = {path: path.read_bytes() for path in (out, tmp_path / "m.parquet.classifier")}
        if mode == "update":
            write_tar(pool / "new.tar", {f"{n}.png": png(n) for n in range(20)})
        else:
            out.unlink()
        began = time.monotonic()
        start(process, mode)
        assert ended(process) == 0
        duration, expected = time.monotonic() - began, out.read_bytes()

        def again() -> None:
            out.unlink()
            for path, data in first.items() if mode == "update" else ():
                path.write_bytes(data)

        again()
        for _ in range(KILLS[mode]):
            victim = start(process, mode)
            time.sleep(moments.uniform(0, duration))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            end = ended(process)
            assert end in (0, -signal.SIGKILL)
            if end == 0:
                assert out.read_bytes() == expected
                finished += 1
                again()
        start(process, mode)
        assert ended(process) == 0
    assert out.read_bytes() == expected
    assert finished < KILLS[mode]  # some were really killed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.parquet", "m.parquet.classifier", "pool"]


def test_scores_of_a_run_that_is_killed_at_random_times_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    """Whatever moment it dies at, in the middle of a part or between two: byte for byte, and no part is left behind."""
    pool, out, clips = write_photo_pool(tmp_path / "pool", clean=10, per_blur=8), tmp_path / "s.parquet", tmp_path / "c"
    for number, path in enumerate(sorted(pool.rglob("*.png"))):
        path.with_suffix(".txt").write_text(f"number {number}")
    clips.mkdir()
    write_little_clips(clips)
    moments, finished, partly = random.Random(0), 0, 0
    with zygote(SCORE, pool, out, clips) as process:
        start(process)
        assert ended(process) == 0
        out.unlink()
        began = time.monotonic()
        start(process)
        assert ended(process) == 0
        duration, expected = time.monotonic() - began, out.read_bytes()
        out.unlink()
        for _ in range(KILLS["score"]):
            victim = start(process)
            time.sleep(moments.uniform(0, duration))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            end = ended(process)
            assert end in (0, -signal.SIGKILL)
            partly += end != 0 and len(list(tmp_path.glob("s.parquet.parts/*.parquet"))) > 0
            if end == 0:
                assert out.read_bytes() == expected
                finished += 1
                out.unlink()
        start(process)
        assert ended(process) == 0
    assert out.read_bytes() == expected
    assert pq.read_table(out)["clipscore"].null_count == 0
    assert finished < KILLS["score"]  # some were really killed
    assert partly > 0  # and had finished a part before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "pool", "s.parquet"]


def test_two_runs_on_one_output_refuse_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the first at work, whatever it would do itself."""
    pool, out = write_photo_pool(tmp_path / "pool", clean=10, per_blur=8), tmp_path / "m.parquet"
    with zygote(ANNOTATE, pool, out) as process:
        victim = start(process)
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
        assert ended(process) == 0
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
