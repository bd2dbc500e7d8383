"""Files of a run, written so that neither a kill nor a full disk leaves one that looks finished and is not."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..schemas.errors import UserError

PARTIAL = ".partial"
"""Ending of the name of what is not finished."""


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Turn a failure to write below ``run`` into a UserError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"the disk that holds {run} is full: free some space and run the same command again"
        else:
            message = f"cannot write to {run} ({error.strerror or error}): check its permissions or choose another"
        raise UserError(message) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write a file under a temporary name, flush it to disk if ``synced``, rename it.

    Without flushing, a kill still leaves all of it or nothing, but a power cut may leave a damaged one.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        if synced:
            write_synced(partial, data)
        else:
            partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_json(path: Path, line: dict[str, Any]) -> None:
    """Add one line to a JSON-lines file."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def cut_metrics(path: Path, num_images: int) -> None:
    """Remove lines beyond num_images, and a last one cut short by a kill, so that a resumed run repeats none."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["images"] > num_images:
            break
        kept.append(line)
    write_whole(path, "".join(kept).encode())
