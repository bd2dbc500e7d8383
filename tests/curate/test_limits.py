"""One picture that takes too long, or too much memory, costs no other picture anything, and no run its end."""

import multiprocessing
import os
import signal
import time
import tracemalloc
from pathlib import Path

import pytest
from ambient.curate import parallel, pool, uris
from ambient.curate.images import MAX_SCANS, Unusable, is_heavy, load_many
from ambient.curate.parallel import map_in_order, stop_processes
from ambient.curate.processes import LateError
from ambient.schemas.space import Space
from awkward import png as png_of
from shards import png, records_of, write_pictures, write_tar, write_zip
from slow import hold, jpeg_of_scans, read_from_slow_storage

FOREVER = 600.0


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes for a handful of items, each with its own."""
    monkeypatch.setattr(parallel, "MANY", 1)


def told(item: object, error: LateError) -> str:
    return f"{item}: {error}"


def test_an_item_that_takes_too_long_is_told_and_all_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were given to a process together with it, too."""
    monkeypatch.setattr(parallel, "LIMIT_S", 1)
    items = [FOREVER if number in (3, 5, 40) else 0.0 for number in range(70)]
    found = list(map_in_order(time.sleep, items, workers=2, processes=True, late=told))
    assert found == [f"{FOREVER}: took more than 1 s" if item else None for item in items]
    stop_processes()
    assert multiprocessing.active_children() == []


def test_without_a_word_for_what_is_late_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LIMIT_S", 0.1)
    assert list(map_in_order(time.sleep, [0.5] * 3, workers=2, processes=True)) == [None] * 3


def test_the_lock_of_a_process_that_took_too_long_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LIMIT_S", 1)
    monkeypatch.setattr(parallel, "_PER_TASK", 1)
    items = [0.0, FOREVER, 0.01, 0.02, FOREVER, 0.03]
    found = list(map_in_order(hold, items, workers=3, processes=True, late=told))
    assert found == [f"{item}: took more than 1 s" if item == FOREVER else item for item in items]


def test_waiting_for_the_lock_takes_none_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LIMIT_S", 1.5)
    monkeypatch.setattr(parallel, "_PER_TASK", 1)
    began = time.monotonic()
    assert list(map_in_order(hold, [0.5] * 5, workers=5, processes=True, late=told)) == [0.5] * 5
    assert time.monotonic() - began > 2.5  # one at a time, the last after 2 s


def test_what_is_done_once_for_many_pictures_takes_none_of_the_time_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "LIMIT_S", 1)
    members = {"0.png": png()}
    paths = [write_tar(tmp_path / "a.tar", members), write_zip(tmp_path / "a.zip", members)]
    paths.append(write_pictures(tmp_path / "a.parquet", [png()]))
    items = [str(path) for path in paths]
    found = map_in_order(read_from_slow_storage, items, workers=2, processes=True, late=told)
    assert list(found) == [len(png())] * 3


def test_time_in_which_all_was_stopped_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-Z."""
    monkeypatch.setattr(parallel, "LIMIT_S", 1)
    results = map_in_order(time.sleep, [0.05] * 50, workers=2, processes=True, late=told)
    found, processes = [next(results)], multiprocessing.active_children()
    for number, seconds in ((signal.SIGSTOP, 1.5), (signal.SIGCONT, 0)):
        for process in processes:
            os.kill(process.pid, number)
        time.sleep(seconds)
    assert [*found, *results] == [None] * 50


@pytest.fixture(scope="module")
def slow_jpeg() -> bytes:
    """As many scans as are let through: seconds of work."""
    return jpeg_of_scans(8000, MAX_SCANS)


@pytest.mark.parametrize(("workers", "many"), [(0, 1), (2, 10_000), (2, 1)], ids=["none", "threads", "processes"])
def test_a_picture_that_takes_too_long_is_a_row_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_jpeg: bytes, workers: int, many: int
) -> None:
    monkeypatch.setattr(parallel, "LIMIT_S", 1)
    monkeypatch.setattr(parallel, "MANY", many)
    for number in range(40):
        (tmp_path / f"{number:02d}.png").write_bytes(png(number))
    expected = records_of(tmp_path, workers=0)
    (tmp_path / "09-slow.jpg").write_bytes(slow_jpeg)
    rows = records_of(tmp_path, workers=workers)
    slow = rows.pop("09-slow.jpg")
    assert (slow["status"], slow["reason"]) == ("unreadable", "took more than 1 s")
    assert rows == expected


def test_a_picture_that_takes_too_long_to_load_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_jpeg: bytes
) -> None:
    monkeypatch.setattr(parallel, "LIMIT_S", 1)
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.jpg").write_bytes(slow_jpeg)
    loaded = load_many(["a.png", "b.jpg", "a.png"], Space(resolution=8), {"pool": str(tmp_path)}, workers=2)
    reasons = [picture.reason if isinstance(picture, Unusable) else None for _, picture in loaded]
    assert reasons == [None, "took more than 1 s", None]


@pytest.mark.parametrize(
    ("data", "heavy"),
    [
        (png_of((2**13 + 1, 2**13), 1, 0, b""), True),
        (png_of((2**13, 2**13), 1, 0, b""), False),
        (jpeg_of_scans(64, 17), True),
        (jpeg_of_scans(64, 16), False),
        (b"no picture", False),
        (b"", False),
    ],
)
def test_what_may_take_long_is_seen_by_its_header(data: bytes, heavy: bool) -> None:
    assert is_heavy(data) == heavy


def test_what_may_take_long_is_left_to_a_process_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_of_scans(64, 20))
    (tmp_path / "cut.jpg").write_bytes(jpeg_of_scans(64, 20)[:600])
    stop_processes()
    apart = records_of(tmp_path, workers=0)
    assert len(multiprocessing.active_children()) == 1
    monkeypatch.setattr(pool, "is_heavy", lambda data: False)
    assert apart == records_of(tmp_path, workers=0)
    assert [row["status"] for row in apart.values()] == ["ok", "unreadable"]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_large_files_are_in_memory_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Bombs that say honestly what they are: here eight of 16 MiB, in four workers."""
    size = 16 << 20
    monkeypatch.setattr(parallel, "MANY", 1000)
    monkeypatch.setattr(uris, "_LARGE", 1 << 20)
    bombs = {f"{number}.png": bytes(size) for number in range(8)}
    if kind == "folder":
        for name, data in bombs.items():
            (tmp_path / name).write_bytes(data)
    else:
        (write_zip if kind == "zip" else write_tar)(tmp_path / f"a.{kind}", bombs)
    del bombs
    tracemalloc.start()
    rows = records_of(tmp_path, workers=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {row["reason"] for row in rows.values()} == {"not a picture in a format that can be read"}
    assert {row["num_bytes"] for row in rows.values()} == {size}
    assert peak < 2.7 * size  # zlib gathers what it inflates in pieces, and joins them
