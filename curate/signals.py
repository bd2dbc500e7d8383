"""Ctrl-C, SIGTERM, and a reader that leaves: what a program does when it is told to stop."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

_STOPS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Ctrl-C or SIGTERM came. Not KeyboardInterrupt, with which Typer ends the program itself, without a word."""


def stop_at_once() -> None:
    """From now on Ctrl-C and SIGTERM raise Stopped, wherever the program is."""
    for number in _STOPS:
        signal.signal(number, _stop)


def until_signal() -> Callable[[], bool]:
    """A function that says whether Ctrl-C or SIGTERM has come; a second signal does not wait."""
    came = []

    def remember(_number: int, _frame: FrameType | None) -> None:
        came.append(True)
        stop_at_once()

    for number in _STOPS:
        signal.signal(number, remember)
    return lambda: bool(came)


def let_readers_leave() -> None:
    """``| head`` ends the program without a word, as it ends cat."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped
