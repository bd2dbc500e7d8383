"""Processes that train together read pictures once, choose one place, and end together. Threads stand for them."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ambient.curate import images
from ambient.schemas.errors import UserError
from ambient.train import cache, checkpoint, pictures, together
from ambient.train.loop import train
from ambient.train.pictures import Pictures, Place, Stored, Streamed, load_row, open_pictures
from ambient.train.rows import Rows, read_rows
from ambient.train.state import parts_of
from ambient.train.together import Interrupted
from ambient.train.world import World
from small_pool import SHORT, write_pool
from torch import Tensor

CONFIG = replace(SHORT, num_images=48)
CPU = torch.device("cpu")
PATIENCE_S = 5.0  # after which a communication is given up, as torch.distributed would after half an hour


class Meeting:
    """Where ``size`` threads exchange tensors."""

    def __init__(self, size: int) -> None:
        self.size, self.held = size, [torch.empty(0)] * size
        self.barrier = threading.Barrier(size)

    def exchange(self, rank: int, values: Tensor) -> Tensor:
        self.held[rank] = values
        self.barrier.wait(PATIENCE_S)
        out = torch.stack(self.held)
        self.barrier.wait(PATIENCE_S)
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread(World):
    """A process of a world, played by a thread."""

    meeting: Meeting

    def any(self, flag: bool) -> bool:
        return bool(self.gather(torch.tensor(flag)).any())

    def gather(self, values: Tensor) -> Tensor:
        return self.meeting.exchange(self.rank, values)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return read_rows(write_pool(tmp_path))


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each rank has decoded a picture."""
    count: Counter[int] = Counter()

    def counted(*what: Any, load: Any = images.load) -> Any:
        if threading.current_thread() is not threading.main_thread():
            count[rank_here()] += 1
        return load(*what)

    monkeypatch.setattr(images, "load", counted)
    return count


def rank_here() -> int:
    return int(threading.current_thread().name.rpartition("_")[2])


def opened_by(size: int, rows: Rows, stop: Callable[[int], bool] = lambda _: False, **how: Any) -> list[Any]:
    """What each rank gets, or the error that it meets."""
    meeting, start = Meeting(size), threading.Barrier(size)

    def work(_: int) -> Pictures | Exception:
        start.wait(PATIENCE_S)
        rank = rank_here()
        world = Thread(rank=rank, size=size, device=CPU, meeting=meeting)
        try:
            return open_pictures(rows, CPU, world=world, stop=lambda: stop(rank), **{"workers": 0, **how})
        except (UserError, Interrupted) as error:
            return error

    with ThreadPoolExecutor(size, thread_name_prefix="rank") as threads:
        return list(threads.map(work, range(size)))


@pytest.mark.parametrize("place", ["cache", "device"])
def test_one_of_those_that_share_a_folder_decodes(rows: Rows, looks: Counter[int], place: Place) -> None:
    every, told = torch.arange(12), []
    found = opened_by(3, rows, place=place, say=told.append)
    assert looks == {0: 12}
    expected = np.stack([load_row(rows, row) for row in range(12)])
    for one in found:
        assert isinstance(one, Stored)
        assert np.array_equal(one.gather(every).numpy(), expected)
    assert [path.suffix for path in cache.cache_folder().iterdir()] == [".u8"]
    assert sum("in the cache" in line for line in told) == 3
    opened_by(3, rows, place=place)
    assert looks == {0: 12 + 8}


@pytest.mark.parametrize("place", ["cache", "device"])
def test_each_host_with_a_folder_of_its_own_decodes_once(
    rows: Rows, looks: Counter[int], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / f"host{rank_here() // 2}")
    first, *others = opened_by(4, rows, place=place)
    assert looks == {0: 12, 2: 12}
    for other in others:
        assert torch.equal(other.pixels, first.pixels)
    assert [len(list((tmp_path / host).iterdir())) for host in ("host0", "host1")] == [1, 1]


def test_nothing_is_written_for_devices_of_which_none_shares_a_folder(
    rows: Rows, looks: Counter[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / f"host{rank_here()}")
    opened_by(2, rows, place="device")
    assert looks == {0: 12, 1: 12}
    assert not list(tmp_path.rglob("*.u8"))


def test_devices_do_without_a_cache_that_the_disk_cannot_hold(
    rows: Rows, looks: Counter[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a quota has it, of which the free disk tells nothing."""
    opened, told = Path.open, []

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return opened(Path("/dev/full") if ".u8." in path.name and "w" in mode else path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    found = opened_by(2, rows, place="device", say=told.append)
    expected = np.stack([load_row(rows, row) for row in range(12)])
    assert all(np.array_equal(one.pixels.numpy(), expected) for one in found)
    assert looks == {0: 24, 1: 12}
    assert sum(line.endswith("so each process decodes for itself") for line in told) == 2
    assert not list(tmp_path.rglob("*.u8*"))
    errors = opened_by(2, rows, place="cache")
    assert all("is full: free some space" in str(error) for error in errors)


def test_a_cache_in_a_folder_that_cannot_be_written_is_used(
    rows: Rows, looks: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by(2, rows, place="cache")
    looks.clear()

    def denied(*_args: Any, **_how: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "touch", denied)
    assert all(isinstance(one, Stored) for one in opened_by(2, rows, place="cache"))
    assert looks == {0: 8, 1: 8}


@pytest.mark.parametrize("place", ["cache", "device"])
@pytest.mark.parametrize("shared", [True, False])
def test_what_fails_on_one_ends_all_in_its_words(
    rows: Rows, place: Place, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pool" / "007.png").unlink()
    if not shared:
        monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / f"host{rank_here()}")
    errors = opened_by(2, rows, place=place)
    assert [str(error) for error in errors] == [str(errors[0])] * 2
    assert str(errors[0]).startswith("'007.png' was usable when the pool was annotated and now is not: No such file")
    assert not list(tmp_path.rglob("*.u8*"))


def test_all_choose_the_place_that_has_room_for_each(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "host_memory", lambda: 1000 if rank_here() == 1 else 10**9)
    assert {type(one) for one in opened_by(2, rows)} == {Stored}
    assert len(list(tmp_path.rglob("*.u8"))) == 1
    errors = opened_by(2, rows, place="device")
    assert all("are free for them with pictures=device" in str(error) for error in errors)
    monkeypatch.setattr(pictures, "cache_room", lambda *_: 10 if rank_here() == 0 else 10**9)
    assert {type(one) for one in opened_by(2, rows)} == {Streamed}


def test_processes_of_a_host_share_out_its_readers(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are for the one that writes a cache; for those that each read all, a part of them."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    used, load_rows = [], pictures.load_rows

    def noted(rows: Rows, wanted: Any, workers: int, **how: Any) -> Any:
        used.append(workers)
        return load_rows(rows, wanted, 0, **how)

    monkeypatch.setattr(pictures, "load_rows", noted)
    opened_by(2, rows, place="cache", workers=8)
    assert used == [8]
    for fault, patch in (("no room", (pictures, "cache_room")), ("a folder each", (pictures, "writers"))):
        used.clear()
        with monkeypatch.context() as patched:
            patched.setenv("XDG_CACHE_HOME", str(tmp_path / fault))
            patched.setattr(*patch, {"no room": lambda *_: 0.0, "a folder each": lambda *_: [0, 1]}[fault])
            opened_by(2, rows, place="device", workers=8)
        assert used == [4, 4], fault
    for size, workers in (("1", 8), ("3", 2), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
        assert open_pictures(rows, CPU, place="stream", workers=8) == Streamed(rows=rows, workers=workers)


def test_processes_of_a_host_share_its_memory(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "host_memory", lambda: 3 * 12 * 64)  # of which half may be taken
    assert all(isinstance(one, Stored) for one in opened_by(2, rows, place="device"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert all(isinstance(one, UserError) for one in opened_by(2, rows, place="device"))


def test_a_stop_of_one_that_waits_ends_all(
    rows: Rows, looks: Counter[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_MEET_EVERY_S", 0.0)
    found = opened_by(3, rows, place="cache", stop=lambda rank: rank == 2 and looks[0] > 4)
    assert [type(one) for one in found] == [Interrupted] * 3
    assert looks == {0: 5}
    assert not list(tmp_path.rglob("*.u8*"))


def test_no_wait_is_as_long_as_the_reading(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take hours: what waits in one communication is given up."""
    monkeypatch.setattr(together, "_MEET_EVERY_S", 0.1)
    waits = []

    def timed(meeting: Meeting, rank: int, values: Tensor, exchange: Any = Meeting.exchange) -> Tensor:
        begin = time.monotonic()
        out: Tensor = exchange(meeting, rank, values)
        waits.append(time.monotonic() - begin)
        return out

    def slowly(*what: Any, load: Any = images.load) -> Any:
        time.sleep(0.1)
        return load(*what)

    monkeypatch.setattr(Meeting, "exchange", timed)
    monkeypatch.setattr(images, "load", slowly)
    begin = time.monotonic()
    opened_by(2, rows, place="cache")
    assert max(waits) < (time.monotonic() - begin) / 2


def test_a_run_stopped_while_pictures_are_read_can_be_continued(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step, and when it has some behind it, of which nothing is lost or told twice."""
    manifest, steps = tmp_path / "manifest.parquet", iter(range(100))
    undisturbed = train(manifest, tmp_path / "undisturbed", CONFIG, device="cpu")
    run = tmp_path / "run"

    def slowly(uri: str, *how: Any, load: Any = images.load) -> Any:
        assert uri < "011", "the reading went on"
        time.sleep(0.02)
        return load(uri, *how)

    monkeypatch.setattr(together, "_MEET_EVERY_S", 1e9)  # stop is asked before steps alone
    for newest in ("000000000000", "000000000024"):
        with monkeypatch.context() as slow:
            slow.setattr(together, "_MEET_EVERY_S", 0.05)
            slow.setattr(images, "load", slowly)
            assert train(manifest, run, CONFIG, device="cpu", workers=0, stop=lambda: True).name == newest
        lines = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
        assert len(lines.splitlines()) == (newest != "000000000000")
        train(manifest, run, CONFIG, device="cpu", stop=lambda: next(steps) == 3)
    found = train(manifest, run, CONFIG, device="cpu")
    parts = checkpoint.read(found, parts_of(CONFIG)).parts
    for part, tensors in checkpoint.read(undisturbed, parts_of(CONFIG)).parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, parts[part][name]), (part, name)
