"""Reading the manifest's rows and their pictures, and what is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate import images, parallel
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY
from ambient.schemas.space import Space
from ambient.train import cache, pictures, together
from ambient.train.batches import batches
from ambient.train.cache import cache_path
from ambient.train.config import TrainConfig
from ambient.train.loop import build_sampler, train
from ambient.train.pictures import Place, Stored, Streamed, open_pictures, with_pictures
from ambient.train.rows import read_rows
from ambient.train.together import Interrupted
from ambient.train.world import World
from PIL import Image
from small_pool import SHORT, write_pool

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)


def test_only_ok_rows_take_part_and_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    status = ["ok", "excluded", "ok", "duplicate", "ok", "ok"]
    manifest = write_pool(
        tmp_path, num=6, space=Space(resolution=8), status=status, labels=[3, 1, None, 1, 2, 0], sigma_max=[0.1] * 6
    )
    rows = read_rows(manifest)
    assert rows.uris.to_pylist() == ["000.png", "002.png", "004.png", "005.png"]
    assert rows.labels.tolist() == [3, -1, 2, 0]
    assert rows.sigma_min.tolist() == [0.0, 0.5, 0.5, 0.5]
    for workers in (0, 3):
        opened = open_pictures(rows, CPU, workers=workers)
        assert isinstance(opened, Stored)
        for row, uri in enumerate(rows.uris.to_pylist()):
            with Image.open(tmp_path / "pool" / uri) as image:
                assert np.array_equal(opened.pixels[row].permute(1, 2, 0).numpy(), np.asarray(image))
    assert torch.equal(opened.gather(torch.tensor([2, 0, 2])), opened.pixels[[2, 0, 2]])


@pytest.mark.parametrize("place", ["device", "cache", "stream"])
def test_every_place_gives_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = read_rows(write_pool(tmp_path))
    config = TrainConfig(num_images=64, batch_size=16)
    sampler, told = build_sampler(rows, config), []
    opened = open_pictures(rows, CPU, place=place, workers=2, say=told.append)
    stream = batches(rows, sampler, None, config, start=0, world=ALONE, pictures_on=opened.device)
    seen = list(with_pictures(stream, opened, CPU))
    assert [len(w0) for _, w0 in seen] == [16] * 4
    for batch, w0 in seen:
        for row, picture in zip(batch.rows, w0, strict=True):
            with Image.open(tmp_path / "pool" / rows.uri(row)) as image:
                assert torch.equal(picture[0], torch.from_numpy(np.array(image)) / 127.5 - 1)
    assert {"device": "memory of cpu", "cache": ".u8", "stream": "when they are drawn"}[place] in told[0]


def test_a_cache_that_the_disk_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a memory-mapped file would tell by ending the program."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows, opened = read_rows(write_pool(tmp_path)), Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return opened(Path("/dev/full") if path.suffix == ".partial" else path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"the disk that holds .*cache/ambient/.*u8 is full: free some space"):
        open_pictures(rows, CPU, place="cache")
    assert list((tmp_path / "cache" / "ambient").iterdir()) == []


def test_the_cache_is_decoded_once_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = read_rows(write_pool(tmp_path))
    victim = tmp_path / "pool" / "011.png"
    data = victim.read_bytes()
    victim.unlink()
    with pytest.raises(UserError, match=r"011\.png"):
        open_pictures(rows, CPU, place="cache")
    assert list((tmp_path / "cache" / "ambient").iterdir()) == []
    victim.write_bytes(data)
    first = open_pictures(rows, CPU, place="cache")
    shutil.rmtree(tmp_path / "pool")
    other = replace(rows, sigma_min=rows.sigma_min + 1)  # thresholds are not pictures
    again = open_pictures(other, CPU, place="cache")
    assert torch.equal(first.gather(torch.arange(12)), again.gather(torch.arange(12)))


def test_a_picture_lost_while_streaming_is_named(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path))
    opened = open_pictures(rows, CPU, place="stream")
    (tmp_path / "pool" / "004.png").unlink()
    with pytest.raises(UserError, match=r"'004\.png' was usable.*No such file"):
        opened.gather(torch.tensor([3, 4]))


def test_streaming_leaves_the_interpreter_to_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are small, but they are many: other processes read them, which know nothing of what is patched here."""
    rows, every = read_rows(write_pool(tmp_path)), torch.arange(12)
    expected = open_pictures(rows, CPU).gather(every)

    def fail(*_: Any) -> Any:
        raise AssertionError("read by this process")

    monkeypatch.setattr(images, "load", fail)
    assert torch.equal(open_pictures(rows, CPU, place="stream", workers=2).gather(every), expected)
    distant = replace(rows, roots={"pool": "memory://nowhere"})
    with pytest.raises(AssertionError, match="by this process"):  # there nothing but waiting takes time
        open_pictures(distant, CPU, place="stream", workers=2).gather(every)


def test_many_pictures_are_read_by_processes_that_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = write_pool(tmp_path)
    rows, every = read_rows(manifest), torch.arange(12)
    expected = open_pictures(rows, CPU).gather(every)
    monkeypatch.setattr(parallel, "MANY", 12)
    monkeypatch.setattr(images, "load", None)
    for place in ("device", "cache"):
        assert torch.equal(open_pictures(rows, CPU, place=place, workers=2).gather(every), expected)
        assert not parallel._pools
    train(manifest, tmp_path / "run", replace(SHORT, pictures="stream"), device="cpu")
    assert not parallel._pools


def test_a_signal_to_all_processes_of_a_run_stops_it_with_a_checkpoint(tmp_path: Path) -> None:
    """As torchrun, `timeout` and a terminal send it: those that read pictures go on until nobody asks them.

    Pictures are large and the network small, so the run waits for readers whenever the signal comes.
    """
    manifest, run = write_pool(tmp_path, space=Space(resolution=1200, channels=1)), tmp_path / "run"
    table = pq.read_table(manifest)
    raw = table.schema.metadata[METADATA_KEY].replace(b'"resolution": 1200', b'"resolution": 8')
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: raw}), manifest)
    options = [
        "pictures=stream",
        "num_images=100000000",
        "batch_size=8",
        "network.channels=8",
        "compile=off",
        "log_images=64",
    ]
    command = [sys.executable, "-m", "ambient.cli", "train", str(manifest), "-o", str(run), "--device", "cpu"]
    settings = [part for option in options for part in ("--set", option)]
    with subprocess.Popen(
        [*command, "--workers", "2", *settings], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        until = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists():
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGTERM)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "ambient: stopped; the same command continues"
    assert len(list((run / "checkpoints").iterdir())) >= 1
    until = time.monotonic() + 20
    while left := of_group(running.pid):
        assert time.monotonic() < until, left
        time.sleep(0.05)


def of_group(number: int) -> list[str]:
    """Processes of a group that have not ended, as Linux shows them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            state, _, group = rest.split()[:3]
            if int(group) == number and state != "Z":
                found.append(name)
    return found


def test_auto_takes_the_first_place_with_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(write_pool(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert isinstance(open_pictures(rows, CPU), Stored)
    monkeypatch.setattr(pictures, "host_memory", lambda: 1000)
    open_pictures(rows, CPU)
    assert len(list((tmp_path / "cache" / "ambient").glob("*.u8"))) == 1
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=900))
    told: list[str] = []
    open_pictures(rows, CPU, say=told.append)
    assert "in the cache" in told[0]  # which is there already and takes no more room
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert isinstance(open_pictures(rows, CPU), Streamed)


@pytest.mark.parametrize("problem", [PermissionError(13, "Permission denied"), RuntimeError("no home directory")])
def test_without_a_home_folder_pictures_live_elsewhere(
    problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Path:
        raise problem

    monkeypatch.setattr(cache, "cache_folder", none)
    rows = read_rows(write_pool(tmp_path))
    assert isinstance(open_pictures(rows, CPU), Stored)
    monkeypatch.setattr(pictures, "host_memory", lambda: 1000)
    assert isinstance(open_pictures(rows, CPU), Streamed)
    with pytest.raises(UserError, match="are free for them with pictures=cache"):
        open_pictures(rows, CPU, place="cache")


def cache_file(folder: Path) -> Path:
    (path,) = (folder / "cache" / "ambient").iterdir()
    return path


@pytest.mark.parametrize("damaged", ["all", "the end"])
def test_a_cache_with_other_pixels_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows, told = read_rows(write_pool(tmp_path, num=40)), []
    whole = open_pictures(rows, CPU, place="cache").gather(torch.arange(40)).clone()
    data = cache_file(tmp_path).read_bytes()
    kept = b"" if damaged == "all" else data[:-64]
    cache_file(tmp_path).write_bytes(kept.ljust(len(data), b"\0"))
    again = open_pictures(rows, CPU, place="cache", say=told.append)
    assert torch.equal(again.gather(torch.arange(40)), whole)
    assert cache_file(tmp_path).read_bytes() == data
    assert "does not hold these pictures as they are decoded today" in told[1]
    cache_file(tmp_path).write_bytes(bytes(len(data)))
    (tmp_path / "pool" / "011.png").unlink()
    with pytest.raises(UserError, match=r"011\.png"):
        open_pictures(rows, CPU, place="cache")
    assert not list((tmp_path / "cache" / "ambient").iterdir())  # the disk may have no room for two


def test_a_whole_cache_is_compared_in_a_few_pictures_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows, told, looked = read_rows(write_pool(tmp_path, num=40)), [], []
    open_pictures(rows, CPU, place="cache")
    one = images.load
    monkeypatch.setattr(images, "load", lambda uri, *how: (looked.append(uri), one(uri, *how))[1])
    open_pictures(rows, CPU, place="cache", say=told.append)
    assert len(looked) == 8
    assert {"000.png", "039.png"} < set(looked)
    assert len(told) == 1
    shutil.rmtree(tmp_path / "pool")
    open_pictures(rows, CPU, place="cache", say=told.append)
    assert "no picture can be read to compare with it" in told[2]


@pytest.mark.parametrize("what", ["fit", "decode"])
def test_pixels_that_other_code_has_made_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Neither by the name of the file, nor where only the pictures themselves show it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows, every = read_rows(write_pool(tmp_path)), torch.arange(12)
    before = open_pictures(rows, CPU, place="cache").gather(every).clone()
    path = cache_path(rows)
    own = getattr(images, what)

    def other(*args: Any) -> Any:
        made = own(*args)
        return 255 - made if what == "fit" else replace(made, pixels=255 - made.pixels)

    monkeypatch.setattr(images, what, other)
    assert torch.equal(open_pictures(rows, CPU, place="cache").gather(every), 255 - before)
    monkeypatch.setattr(cache, what, other)
    assert cache_path(rows) != path


def test_pictures_reach_the_device_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(write_pool(tmp_path))
    expected = open_pictures(rows, CPU).gather(torch.arange(12))
    sizes, empty_like = [], torch.empty_like
    monkeypatch.setattr(pictures, "_BLOCK_BYTES", 5 * 64)
    monkeypatch.setattr(torch, "empty_like", lambda x, **how: (sizes.append(len(x)), empty_like(x, **how))[1])
    assert torch.equal(open_pictures(rows, CPU).gather(torch.arange(12)), expected)
    assert sizes == [5]
    copied = torch.zeros(12, 1, 8, 8, dtype=torch.uint8)
    assert len(list(pictures._copied(copied, expected))) == 3
    assert torch.equal(copied, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pictures_on_a_gpu_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(write_pool(tmp_path))
    expected = open_pictures(rows, CPU).gather(torch.arange(12))
    monkeypatch.setattr(pictures, "_BLOCK_BYTES", 5 * 64)
    opened = open_pictures(rows, torch.device("cuda"), place="device")
    assert torch.equal(opened.gather(torch.arange(12, device="cuda")).cpu(), expected)


@pytest.mark.parametrize("place", ["device", "cache"])
def test_a_stop_ends_the_reading_soon_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(together, "_MEET_EVERY_S", 0.05)
    rows, looked, one = read_rows(write_pool(tmp_path)), [], images.load

    def slowly(uri: str, *how: Any) -> Any:
        looked.append(uri)
        time.sleep(0.04)
        return one(uri, *how)

    monkeypatch.setattr(images, "load", slowly)
    with pytest.raises(Interrupted):
        open_pictures(rows, CPU, place=place, workers=0, stop=lambda: True)
    assert 1 <= len(looked) <= 4
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_cache_cut_short_is_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = read_rows(write_pool(tmp_path))
    every = torch.arange(len(rows))
    whole = open_pictures(rows, CPU, place="cache").gather(every).clone()
    (path,) = (tmp_path / "cache" / "ambient").glob("*.u8")
    path.write_bytes(path.read_bytes()[:-100])
    assert torch.equal(open_pictures(rows, CPU, place="cache").gather(every), whole)
    assert not whole.eq(0).all()


def test_what_a_killed_run_left_of_a_cache_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = read_rows(write_pool(tmp_path))
    open_pictures(rows, CPU, place="cache")
    (path,) = (tmp_path / "cache" / "ambient").glob("*.u8")
    path.unlink()
    old, new = (path.with_name(f"{path.name}.{pid}.partial") for pid in (1, 2))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    open_pictures(rows, CPU, place="cache")
    assert (path.exists(), old.exists(), new.exists()) == (True, False, True)


def test_no_ok_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture with status 'ok'"):
        read_rows(write_pool(tmp_path, num=2, status=["excluded"] * 2))


def test_another_resolution_is_refused(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path)
    assert len(read_rows(manifest, resolution=8)) == 12
    with pytest.raises(UserError, match="annotate with `--resolution 16`"):
        read_rows(manifest, resolution=16)


def test_latents_are_refused(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path, space=Space(resolution=8, channels=1))
    table = pq.read_table(manifest)
    raw = table.schema.metadata[METADATA_KEY].replace(b'"pixel"', b'"latent"').replace(b'"vae": null', b'"vae": "sd"')
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: raw}), manifest)
    with pytest.raises(UserError, match="latents of sd"):
        open_pictures(read_rows(manifest), CPU)


def test_moved_pool_is_found_again_by_root(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path)
    (tmp_path / "pool").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="--root pool=/new/place"):
        open_pictures(read_rows(manifest), CPU)
    rows = read_rows(manifest, roots={"pool": str(tmp_path / "moved")})
    assert len(open_pictures(rows, CPU).gather(torch.arange(12))) == 12
    with pytest.raises(UserError, match="no root named 'pol'"):
        read_rows(manifest, roots={"pol": "/"})


@pytest.mark.parametrize(("change", "reason"), [("remove", "No such file"), ("replace", "its content has changed")])
def test_a_missing_or_changed_picture_is_named(tmp_path: Path, change: str, reason: str) -> None:
    manifest = write_pool(tmp_path)
    victim = tmp_path / "pool" / "004.png"
    if change == "remove":
        victim.unlink()
    else:
        victim.write_bytes((tmp_path / "pool" / "005.png").read_bytes())
    with pytest.raises(UserError, match=rf"'004.png'.*{reason}"):
        open_pictures(read_rows(manifest), CPU)


def test_pictures_that_do_not_fit_into_memory_are_refused_with_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(write_pool(tmp_path))
    monkeypatch.setattr(pictures, "host_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"0\.0 MiB are free for them with pictures=device"):
        open_pictures(rows, CPU, place="device")


def test_fingerprint_covers_pictures_and_thresholds(tmp_path: Path) -> None:
    prints = {
        read_rows(write_pool(tmp_path / name, **kwargs)).fingerprint
        for name, kwargs in {
            "a": {},
            "b": {"num": 11},
            "c": {"sigma_max": [0.1] * 12},
            "d": {"sigma_min": [0.1] * 12},
            "e": {"labels": [1] * 12},
        }.items()
    }
    assert len(prints) == 5
    assert read_rows(write_pool(tmp_path / "again")).fingerprint in prints
