"""Workers change how fast things are done, never what is done."""

import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ambient.curate import parallel
from ambient.curate.images import Unusable, load_many
from ambient.curate.parallel import map_in_order, stop_processes
from ambient.schemas.errors import UserError
from ambient.schemas.space import Space
from PIL import Image
from slow import die_once, nap, signal_itself

MANY = 3000


LAST = f"print(max(map_in_order(abs, range({MANY}), workers=2, processes=True)))\n"

reciprocal = partial(operator.truediv, 1)  # processes need functions that they can import


@pytest.mark.parametrize(("workers", "processes"), [(0, False), (0, True), (1, True), (3, False), (2, True)])
def test_results_and_order(workers: int, processes: bool) -> None:
    items = range(1, MANY)
    found = list(map_in_order(reciprocal, items, workers=workers, processes=processes))
    assert found == [1 / item for item in items]


def test_many_items_are_shared_out_to_processes_and_few_are_not() -> None:
    many = set(map_in_order(operator.call, [os.getpid] * MANY, workers=2, processes=True))
    assert os.getpid() not in many
    assert set(map_in_order(operator.call, [os.getpid] * 10, workers=2, processes=True)) == {os.getpid()}


FUNCTIONS = """
import os
import time
import numpy as np

def threads(item):
    square = np.ones((300, 300), dtype=np.float32)
    assert (square @ square)[0, 0] == 300
    return len(os.listdir("/proc/self/task"))

def slow(item):
    time.sleep(0.01)
    return os.getpid()
"""

MULTIPLIED = f"""
from ambient.curate.parallel import map_in_order
from functions import threads

print(set(map_in_order(threads, range({MANY}), workers=2, processes=True)))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
def test_processes_multiply_matrices_in_one_thread(tmp_path: Path) -> None:
    """As many processes as cores, each with a thread for every core, read pictures ten times slower than they could."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "work.py").write_text(MULTIPLIED)
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    told = subprocess.run([sys.executable, tmp_path / "work.py"], env=variables, capture_output=True, text=True)
    assert told.stdout.strip() == "{2}", told.stderr  # the other one waits for the parent's end
    assert told.stderr == ""


def test_a_script_is_run_once(tmp_path: Path) -> None:
    """Though it has no ``if __name__ == "__main__"``, or is no file at all."""
    script = f"from ambient.curate.parallel import map_in_order\nprint('once')\n{LAST}"
    (tmp_path / "work.py").write_text(script)
    for command, given in (([tmp_path / "work.py"], None), (["-"], script)):
        told = subprocess.run([sys.executable, *command], input=given, capture_output=True, text=True, timeout=60)
        assert (told.stdout, told.stderr) == ("once\n2999\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_for_the_one_who_asks_for_work(number: signal.Signals) -> None:
    """torchrun, timeout and terminals send it to all processes of a group."""
    items = [partial(signal_itself, number)] * 20
    assert os.getpid() not in set(map_in_order(operator.call, items, workers=2, processes=True, many=1))


def test_a_process_that_may_have_none_does_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a DataLoader's."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert set(map_in_order(operator.call, [os.getpid] * 20, workers=2, processes=True, many=1)) == {os.getpid()}


def test_one_that_is_killed_has_another_in_its_place(tmp_path: Path) -> None:
    first = tmp_path / "first"
    found = list(map_in_order(partial(die_once, first), range(20), workers=2, processes=True, many=1))
    assert found == list(range(20))
    assert first.exists()


@pytest.mark.parametrize(("num", "workers", "used"), [(8, 2, 2), (8, 4, 4), (64, 2, 2), (3, 8, 3), (1, 1, 1)])
def test_few_large_items_keep_all_workers_busy(num: int, workers: int, used: int) -> None:
    """A batch of eight pictures is no single task; one worker is a process, too, if few are worth it."""
    stop_processes()
    found = list(map_in_order(nap, [os.getpid()] * num, workers=workers, processes=True, many=1))
    assert len(set(found)) == used
    assert os.getpid() not in found


def test_a_process_that_dies_is_an_error_and_the_next_work_goes_on() -> None:
    with pytest.raises(UserError, match="killed"):
        list(map_in_order(operator.call, [partial(os._exit, 1)] * MANY, workers=2, processes=True))
    assert len(list(map_in_order(operator.call, [os.getpid] * MANY, workers=2, processes=True))) == MANY


@pytest.mark.parametrize("processes", [False, True])
def test_what_is_raised_arrives_in_its_turn(processes: bool) -> None:
    results = map_in_order(reciprocal, [*range(1, MANY), 0, *range(1, 50)], workers=2, processes=processes)
    before = 0
    with pytest.raises(ZeroDivisionError):
        for _ in results:
            before += 1
    assert MANY - 1 - parallel._PER_TASK <= before <= MANY - 1


@pytest.mark.parametrize("processes", [False, True])
def test_closing_early_leaves_the_workers_ready(processes: bool) -> None:
    results = map_in_order(reciprocal, range(1, MANY), workers=2, processes=processes)
    assert next(results) == 1.0
    results.close()
    assert next(map_in_order(reciprocal, range(1, MANY), workers=2, processes=processes)) == 1.0


def test_pictures_and_reasons_survive_the_way_between_processes(tmp_path: Path) -> None:
    Image.new("RGB", (16, 12), (200, 10, 30)).save(tmp_path / "good.png")
    Image.new("RGB", (16, 4)).save(tmp_path / "flat.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    uris = ["good.png", "flat.png", "bad.png"] * 700
    load = partial(load_many, uris, Space(resolution=8), {"pool": str(tmp_path)})
    for (_, one), (_, other) in zip(load(workers=0), load(workers=2), strict=True):
        if isinstance(one, Unusable):
            assert isinstance(other, Unusable)
            assert (one.status, one.reason, one.width, one.height, one.format, str(one)) == (
                *(other.status, other.reason, other.width, other.height, other.format, str(other)),
            )
        else:
            assert (one == other).all()


KILLED = f"""
from ambient.curate.parallel import map_in_order
from functions import slow

for number, pid in enumerate(map_in_order(slow, range({MANY}), workers=2, processes=True)):
    if number % 16 == 0:
        print(pid, flush=True)
"""


def test_processes_at_work_are_not_stopped() -> None:
    """Others in this process may want their memory back meanwhile."""
    results = map_in_order(abs, range(-MANY, 0), workers=2, processes=True)
    first = next(results)
    stop_processes()
    assert [first, *results] == list(range(MANY, 0, -1))
    stop_processes()
    assert list(map_in_order(abs, range(MANY), workers=2, processes=True)) == list(range(MANY))


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "work.py").write_text(KILLED)
    with subprocess.Popen([sys.executable, tmp_path / "work.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = {int(parent.stdout.readline()) for _ in range(8)}
        assert parent.pid not in workers
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 20
    while alive := {pid for pid in workers if _runs(pid)}:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
