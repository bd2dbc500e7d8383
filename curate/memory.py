"""Memory that was freed, and that allocators keep for themselves."""

import ctypes

import pyarrow as pa

from .parallel import stop_processes


def give_back(*, readers: bool = True) -> None:
    """To the system: what Arrow and glibc hold without need, and processes that wait for pictures to read, if asked.

    For between two stages of work: what the last one needed is up to a quarter of all there is.
    """
    if readers:
        stop_processes()
    pa.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # other C libraries have none
        trim(0)
