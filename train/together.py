"""Work before the first step, shared among the processes that train together: it ends for all of them at once."""

import time
from collections.abc import Callable, Generator
from contextlib import closing

import torch

from ..schemas.errors import UserError
from .world import World

Work = Generator[None, None, None]
"""Work that pauses often, where it may be given up."""

_MEET_EVERY_S = 1.0  # the longest that a process waits in one piece, and that a stop goes unheard
_MESSAGE_BYTES = 4096


class Interrupted(Exception):  # noqa: N818 (it is asked for, and no fault)
    """A stop was asked for before the work was done."""


def nothing() -> Work:
    """The work of a process that only waits for the others."""
    yield from ()


def together(work: Work, world: World, stop: Callable[[], bool]) -> None:
    """Do this process's work, until every process has done its own. Every rank must call.

    They meet every second, so that a wait of hours is none that is given up. stop: asked then, if some still work.
    Raises Interrupted on every rank where stop says so on one, and the UserError of one on all.
    """
    with closing(work):
        while True:
            problem, goes_on = None, False
            try:
                goes_on = _goes_on(work, _MEET_EVERY_S)
            except UserError as error:
                problem = error
            _raise_on_all(problem, world)
            if not world.any(goes_on):
                return
            if world.any(stop()):
                raise Interrupted


def _goes_on(work: Work, seconds: float) -> bool:
    """Whether there is more to do after so long."""
    end = time.monotonic() + seconds
    return any(time.monotonic() >= end for _ in work)


def _raise_on_all(problem: UserError | None, world: World) -> None:
    """Raise this rank's problem, or that of the first rank that has one. Every rank must call."""
    if not world.any(problem is not None):
        return
    message = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8)
    said = str(problem or "").encode()[:_MESSAGE_BYTES]
    message[: len(said)] = torch.tensor(list(said), dtype=torch.uint8)
    messages = [bytes(each.tolist()).rstrip(b"\0").decode(errors="replace") for each in world.gather(message)]
    raise problem or UserError(next(filter(None, messages)))
