"""Files that are written whole or not at all, whether a kill comes or the disk fills."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..schemas.errors import UserError

PARTIAL = ".partial"
"""Ending of the name of what is not finished."""

_PNG_END = b"IEND\xaeB`\x82"  # the last chunk of every PNG file


class UnwritableError(UserError):
    """What cannot be written where it should be."""


@contextmanager
def replacing(path: Path, *, name: str | None = None, synced: bool = True) -> Iterator[Path]:
    """A temporary name beside path that becomes path when the block succeeds, and is removed when it does not.

    name: of the temporary file, by default path's with PARTIAL; several processes that may write path need one each.
    synced: flush it to disk first; else a kill still leaves all of it or nothing, but a power cut may leave a damaged
    one. A link stays one: what it leads to is written. Raises UserError when it cannot be written, or path is a
    folder or a device.
    """
    check_local(path)
    with writing(path):
        path = path.resolve() if path.is_symlink() else path
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the file to write")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file: name the file to write")
    partial = path.with_name(name or path.name + PARTIAL)
    try:
        with writing(path):
            yield partial
            if synced:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def check_local(path: Path) -> None:
    """Raise UserError for what Arrow would take for a url, as it takes relative paths with a colon, too."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(path)):
        raise UserError(f"{path} looks like a url, and files are written to local folders: give an absolute path")


def write_whole(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write one file; as ``replacing``."""
    with replacing(path, synced=synced) as partial:
        partial.write_bytes(data)


def create_whole(path: Path, data: bytes) -> None:
    """Write data to path in one step unless there is a file by now: of several processes the first decides."""
    mine = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    write_whole(mine, data)
    try:
        os.link(mine, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links, where two processes at once get the last one's
        mine.replace(path)
    finally:
        mine.unlink(missing_ok=True)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn a failure to write at or below a place into a UserError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"the disk that holds {place} is full: free some space and run the same command again"
        elif error.errno == errno.EFBIG:
            message = f"{place} would be larger than files may be here (`ulimit -f`): raise that limit"
        elif error.errno == errno.ENOENT and not place.parent.exists():
            message = f"cannot write to {place}: there is no folder {place.parent}; make it, or choose another"
        else:
            message = f"cannot write to {place} ({error.strerror or error}): check its permissions or choose another"
        raise UnwritableError(message) from error


def is_whole_png(path: Path) -> bool:
    """Whether there is a PNG file that was not cut short, as one that is not synced is by a power cut."""
    return path.is_file() and path.read_bytes().endswith(_PNG_END)
