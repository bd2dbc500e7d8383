"""Work done ahead of time by threads or processes, handed over in order.

Threads share the interpreter, which small pictures keep busy: sixteen of them read 32x32 pictures half as fast as one.
So where there is much to do, processes do it. They are started once, by a server that has not seen this process's
threads or GPU (start method "forkserver"), and end with it, however it ends.
"""

import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import length_hint
from typing import TypeVar

from .processes import KilledError, LateError, Process, start_server

T = TypeVar("T")
R = TypeVar("R")

MANY = 2048
"""Items that are worth starting processes for."""

LIMIT_S = 60
"""Seconds that an item may take in a process. A picture takes milliseconds; no storage is as slow that still works."""

_PER_TASK = 16  # items that travel together, at most
_AHEAD = 4  # tasks under way per worker: enough to ride out a large picture, few enough to bound memory

Late = Callable[[T, LateError], R]
"""What there is of an item that took too long."""


class _Pool:
    """Threads, and processes that do what these are given."""

    def __init__(self, workers: int) -> None:
        start_server()
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="ambient")
        self._idle: deque[Process] = deque()

    def do(self, function: Callable[[T], R], late: Late[T, R] | None, items: list[T], tries: int = 2) -> list[R]:
        """function of each item, by a process. late: of one that takes LIMIT_S; without, it takes the time it takes.

        Where one of several takes too long, each is tried again alone: most will be well, and the time may have passed
        because all was stopped for a while. A process that is killed has a second one in its place.
        """
        try:
            with self._process() as process:
                return process.ask(function, items, LIMIT_S if late else 0)
        except LateError as error:
            if late and len(items) == 1:
                return [late(items[0], error)]
            return [result for item in items for result in self.do(function, late, [item])]
        except KilledError:
            if tries == 1:
                raise
            return self.do(function, late, items, tries - 1)

    def shutdown(self) -> None:
        self.threads.shutdown()
        for process in self._idle:
            process.close()

    @contextmanager
    def _process(self) -> Iterator[Process]:
        """One that has nothing to do, kept for others unless it ended or was interrupted."""
        try:
            process = self._idle.pop()
        except IndexError:
            process = Process()
        try:
            yield process
        finally:
            if process.is_free:
                self._idle.append(process)
            else:
                process.close()


_pools: dict[int, _Pool] = {}  # by how many threads each has
_users: Counter[int] = Counter()  # of each, how many are using it
_changing = threading.Lock()  # held where these two are changed


def _forget_pools() -> None:
    """A forked process has none of its parent's threads, and may have been made while one of them held the lock."""
    global _changing
    _changing = threading.Lock()
    _pools.clear()
    _users.clear()


os.register_at_fork(after_in_child=_forget_pools)


def map_in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int,
    processes: bool = False,
    many: int | None = None,
    late: Late[T, R] | None = None,
) -> Iterator[R]:
    """``map(function, items)`` with ``workers`` threads working ahead within a bounded window; 0 works in this thread.

    The results do not depend on ``workers``. What function raises is raised here, in its turn. Closing the iterator
    early waits only for the work already begun.
    processes: function, items and results can be pickled, and are of modules other than ``__main__``, so that processes
    may do it where there are MANY items or more and two workers. many: the number instead of MANY; one worker, too, is
    then a process. In a process that may have none itself, such as a DataLoader's, threads do it.
    late: what an item becomes that takes a process more than LIMIT_S. Threads take the time they take.
    """
    if workers <= 0:
        yield from map(function, items)
    elif processes and _worth_processes(length_hint(items), workers, many):
        rest = iter(items)
        together = max(1, min(_PER_TASK, length_hint(items) // workers))
        tasks = iter(lambda: list(islice(rest, together)), [])
        with _used(workers) as pool:
            for results in _in_order(pool.threads, partial(pool.do, function, late), tasks, workers * _AHEAD):
                yield from results
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="ambient") as threads:
            yield from _in_order(threads, function, items, workers * _AHEAD)


def _worth_processes(num: int, workers: int, many: int | None) -> bool:
    if multiprocessing.current_process().daemon:
        return False
    return workers > 1 and num >= MANY if many is None else num >= many


def apart(function: Callable[[T], R], item: T, late: Late[T, R]) -> R:
    """``function(item)`` by a process that this thread waits for, or ``late`` of it after LIMIT_S."""
    with _used(1) as pool:
        return pool.do(function, late, [item])[0]


def _in_order(threads: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    rest = iter(items)
    under_way: deque[Future[R]] = deque(threads.submit(function, item) for item in islice(rest, ahead))
    try:
        while under_way:
            result = under_way.popleft().result()
            under_way.extend(threads.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        for future in under_way:
            future.cancel()


def stop_processes() -> None:
    """End the processes that do nothing now, and give their memory back; the next work for processes starts others."""
    with _changing:
        idle = [_pools.pop(workers) for workers in list(_pools) if not _users[workers]]
    for pool in idle:
        pool.shutdown()


@contextmanager
def _used(workers: int) -> Iterator[_Pool]:
    """So many threads with their processes, which are not stopped meanwhile."""
    with _changing:
        if workers not in _pools:
            _pools[workers] = _Pool(workers)
        pool = _pools[workers]
        _users[workers] += 1
    try:
        yield pool
    finally:
        with _changing:
            _users[workers] -= 1
