"""Work done ahead of time by threads, handed over in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4  # items under way per thread: enough to ride out a large picture, few enough to bound memory


def map_in_order(function: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """``map(function, items)`` with ``workers`` threads working ahead within a bounded window; 0 works in this thread.

    The results do not depend on ``workers``. What function raises is raised here, in its turn. Closing the iterator
    early waits only for the items already begun.
    """
    if workers <= 0:
        yield from map(function, items)
        return
    rest = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ambient")
    try:
        ahead: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(rest, workers * _AHEAD))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
