"""A process that works for one thread, and ends when a picture takes it too long.

No signal handler of Python's interrupts C code that decodes, and no thread can be ended. So the kernel ends the process
(SIGALRM), and what the thread that waits for it held for it is free again.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any
from weakref import WeakSet

from ..schemas.errors import UserError

_SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What keeps NumPy's matrix products from starting threads, read when it is imported. Sixteen processes with sixteen
spinning threads each read a sixteenth of what they can."""

_exclusive: AbstractContextManager[Any] = threading.RLock()

_children = threading.Lock()
"""Held where a process is started or waited for: to start one, multiprocessing asks all others whether they have ended,
and of two threads that ask only the first is told how."""


def _forget_locks() -> None:
    """A forked process may have been made while another thread held one."""
    global _exclusive, _children
    _exclusive, _children = threading.RLock(), threading.Lock()
    _started.clear()


os.register_at_fork(after_in_child=_forget_locks)


def exclusive() -> AbstractContextManager[Any]:
    """A lock that all workers share, threads or processes: for what takes so much memory that one at a time must do.

    Who holds it may take it again. Of a process that is killed, it is free.
    """
    return _exclusive


def is_worker() -> bool:
    """Whether this is a process that works for a thread of another."""
    return isinstance(_exclusive, _Turn)


@contextmanager
def untimed() -> Iterator[None]:
    """For what is done once for many items, such as listing an archive: it is no time of the one that is first."""
    if not is_worker():
        yield
        return
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left_s)


class LateError(TimeoutError):
    """One of the items that a process was given took more than its time."""


class KilledError(UserError):
    """A process ended in the middle of its work."""


class Process:
    """A process that does what it is asked by one thread at a time. is_free: it has done what it was last asked."""

    def __init__(self) -> None:
        self.is_free = True
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _children, _without_main():
            self._process.start()
        theirs.close()
        _started.add(self)

    def ask(self, function: Callable[[Any], Any], items: list[Any], limit_s: float) -> list[Any]:
        """function of each item, which may take limit_s seconds besides what is untimed; 0: any time.

        Raises what function raises; when the process has ended instead, LateError or KilledError.
        """
        self.is_free = False
        try:
            with ExitStack() as turn:
                self._connection.send((function, items, limit_s))
                while isinstance(answer := self._connection.recv(), bool):
                    if answer:
                        turn.enter_context(_exclusive)
                        self._connection.send(True)
                    else:
                        turn.close()
        except (EOFError, OSError) as error:
            raise self._ended(limit_s) from error
        self.is_free = True
        if isinstance(answer, Exception):
            raise answer
        results: list[Any] = answer
        return results

    def _ended(self, limit_s: float) -> Exception:
        if self._exit_code() == -signal.SIGALRM:
            return LateError(f"took more than {limit_s:g} s")
        return KilledError("a process that reads pictures was killed, perhaps for memory: try fewer workers")

    def close(self) -> None:
        """End it, also in the middle of its work."""
        self._connection.close()
        if not self.is_free:
            self._process.kill()
        self._exit_code()

    def kill(self) -> None:
        """End it without waiting for that."""
        self._process.kill()

    def _exit_code(self) -> int | None:
        with _children:
            self._process.join()
            return self._process.exitcode


_started: WeakSet[Process] = WeakSet()


@atexit.register
def _kill_all() -> None:
    """Before multiprocessing asks them to end by SIGTERM, which they do not hear, and waits for that."""
    for process in list(_started):
        process.kill()


@contextmanager
def _without_main() -> Iterator[None]:
    """A new process does not run the program's file again, as multiprocessing would have it: nothing in it is needed.

    So a script that trains or annotates is run once, though it does so without ``if __name__ == "__main__"``.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def start_server() -> None:
    """The server that starts processes, if it does not run: it has not seen this one's threads or GPU."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([f"{__package__}.pool"])
    # The server inherits the mask, so that Ctrl-C and SIGTERM, which torchrun, timeout and others send to all processes
    # of a group, are met by this one alone. Starting the tracker lifts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with _variables(_SINGLE):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


class _Turn:
    """The lock as a process sees it: the thread that it works for holds it. Waiting for it is untimed."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection, self._depth = connection, 0

    def __enter__(self) -> None:
        if self._depth == 0:
            with untimed():
                self._connection.send(True)
                self._connection.recv()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._connection.send(False)


def _serve(connection: "Connection[Any, Any]") -> None:
    """In a new process: answer until nobody asks any more. Interrupts are left to the parent."""
    global _exclusive
    _exclusive = _Turn(connection)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            function, items, limit_s = connection.recv()
            try:
                connection.send(_each(function, items, limit_s))
            except Exception as error:  # noqa: BLE001 (it is raised where the work is wanted)
                error.add_note(traceback.format_exc())
                connection.send(error)


def _each(function: Callable[[Any], Any], items: list[Any], limit_s: float) -> list[Any]:
    results = []
    try:
        for item in items:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            results.append(function(item))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return results


def _follow_parent() -> None:
    """End when the parent does, however it ends, whatever is being done."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
