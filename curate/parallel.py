"""Work done ahead of time by threads or processes, handed over in order.

Threads share the interpreter, which small pictures keep busy: sixteen of them read 32x32 pictures half as fast as one.
So where there is much to do, processes do it. They are started once, by a server that has not seen this process's
threads or GPU (start method "forkserver"), and end with it, however it ends.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from operator import length_hint
from typing import Any, TypeVar

from ..schemas.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What keeps NumPy's matrix products from starting threads, read when it is imported. Sixteen processes with sixteen
spinning threads each read a sixteenth of what they can."""

MANY = 2048
"""Items that are worth starting processes for."""

_PER_TASK = 16  # items that travel together
_AHEAD = 4  # tasks under way per worker: enough to ride out a large picture, few enough to bound memory

_pools: dict[int, ProcessPoolExecutor] = {}  # by how many processes each has
_users: Counter[int] = Counter()  # of each, how many iterators are under way
_changing = threading.Lock()  # held where these two are changed
_exclusive: AbstractContextManager[Any] = threading.Lock()


def _forget_lock() -> None:
    """A forked process may have been made while another thread held a lock."""
    global _exclusive, _changing
    _exclusive, _changing = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)


def exclusive() -> AbstractContextManager[Any]:
    """A lock that all workers share, threads or processes: for what takes so much memory that one at a time must do."""
    return _exclusive


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, processes: bool = False
) -> Iterator[R]:
    """``map(function, items)`` with ``workers`` threads working ahead within a bounded window; 0 works in this thread.

    The results do not depend on ``workers``. What function raises is raised here, in its turn. Closing the iterator
    early waits only for the work already begun.
    processes: function, items and results can be pickled, so that processes may do it where the items are many. A
    script that is not the command line must then have its ``if __name__ == "__main__"``.
    """
    if workers <= 0:
        yield from map(function, items)
    elif processes and workers > 1 and length_hint(items) >= MANY:
        rest = iter(items)
        tasks = iter(lambda: list(islice(rest, _PER_TASK)), [])
        try:
            with _used(workers) as pool:
                for results in _in_order(pool, _Each(function), tasks, workers * _AHEAD):
                    yield from results
        except BrokenProcessPool as error:
            with _changing:
                broken = _pools.pop(workers, None)
            if broken is not None:
                broken.shutdown()
            raise UserError(
                "a process that reads pictures was killed, perhaps for memory: try fewer workers (a script that calls "
                'this needs its `if __name__ == "__main__":`)'
            ) from error
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="ambient") as threads:
            yield from _in_order(threads, function, items, workers * _AHEAD)


def _in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    rest = iter(items)
    under_way: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(rest, ahead))
    try:
        while under_way:
            result = under_way.popleft().result()
            under_way.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        for future in under_way:
            future.cancel()


class _Each:
    """The function for each item of a task."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, items: list[Any]) -> list[Any]:
        return [self.function(item) for item in items]


def stop_processes() -> None:
    """End the processes that do nothing now, and give their memory back; the next work for processes starts others."""
    with _changing:
        idle = [_pools.pop(workers) for workers in list(_pools) if not _users[workers]]
    for pool in idle:
        pool.shutdown()


@contextmanager
def _used(workers: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes, which are not stopped meanwhile."""
    with _changing:
        if workers not in _pools:
            _pools[workers] = _start(workers)
        pool = _pools[workers]
        _users[workers] += 1
    try:
        yield pool
    finally:
        with _changing:
            _users[workers] -= 1


def _start(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.pool"])
    # The server inherits the mask, so that an interrupt is met by this process alone. Starting the tracker lifts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _variables(_SINGLE):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(context.Lock(),))


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(lock: Any) -> None:
    """In a new process: share the lock, and end when the parent does. Interrupts are left to the parent."""
    global _exclusive
    _exclusive = lock
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
