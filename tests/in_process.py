"""The command line, run in the process of the test."""

import signal
import sys

import pytest
from ambient import cli


def run_command(*words: object) -> int:
    """The exit code of ``ambient WORDS``. How it handles signals, which is for the life of a process, is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)}
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", ["ambient", *map(str, words)])
            cli.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return end.value.code or 0
