"""Work that takes as long as a test wants it to, by functions that processes can import."""

import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ambient.curate import archives
from ambient.curate.parquet import PictureTable
from ambient.curate.processes import exclusive
from ambient.curate.uris import read_bytes
from PIL import Image

_SCAN = b"\xff\xda"


def hold(seconds: float) -> float:
    """Keep the lock that all workers share for so long."""
    with exclusive():
        time.sleep(seconds)
    return seconds


def nap(_: int) -> int:
    """The process that was asked, a little later."""
    time.sleep(0.1)
    return os.getpid()


def signal_itself(number: signal.Signals) -> int:
    """The process that sent itself a signal, and lives."""
    os.kill(os.getpid(), number)
    return os.getpid()


def die_once(first: Path, item: int) -> int:
    """The item; but the first process that is asked for 7 is killed, and leaves a file."""
    if item == 7 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def read_from_slow_storage(path: str) -> int:
    """Bytes of the first picture of an archive that takes a process 1.5 s to list, or to read up to there."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((archives, "_list"), (PictureTable, "_batch")):
            patch.setattr(owner, name, _later(getattr(owner, name)))
        return len(read_bytes("row-000000000" if path.endswith(".parquet") else "0.png", {"pool": path}))


def _later(function: Callable[..., Any]) -> Callable[..., Any]:
    def later(*arguments: Any) -> Any:
        time.sleep(1.5)
        return function(*arguments)

    return later


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of one colour that has so many scans: each takes as long as the picture."""
    data = io.BytesIO()
    Image.new("RGB", (side, side), (9, 90, 190)).save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    last = whole[whole.rindex(_SCAN) : -2]
    return whole[:-2] + last * (scans - whole.count(_SCAN)) + whole[-2:]
