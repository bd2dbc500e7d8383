"""Opening and reading files, of which none can make the program wait or fill the memory."""

import errno
import os
import stat
from typing import BinaryIO, Protocol

from .remote import RemoteFile, is_remote, read_remote

MAX_BYTES = 1 << 30  # of one encoded picture; a larger file is not read


class File(Protocol):
    """A file that is read by position. size: in bytes."""

    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes; fewer where the file ends. Threads and forked processes may share the file."""
        ...

    def stream(self) -> BinaryIO:
        """The file from its beginning, with a position of its own."""
        ...


class LocalFile:
    """A regular file, closed when nobody uses it any more."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = open_regular(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read_at(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)

    def stream(self) -> BinaryIO:
        return open(self._path, "rb", opener=open_regular)


def open_file(path: str) -> File:
    """The file at this path or url. Raises OSError; of a url, what fsspec raises."""
    return RemoteFile(path) if is_remote(path) else LocalFile(path)


def identity_of(path: str) -> tuple[int, int]:
    """What changes when the file at this path does: time of modification and size. Raises OSError.

    Of a url nothing is asked: what lies there is taken to stay the same while the program runs.
    """
    if is_remote(path):
        return 0, 0
    status = os.stat(path)  # noqa: PTH116 (called once per picture: must be fast)
    return status.st_mtime_ns, status.st_size


def read_file(path: str, count: int = -1) -> bytes:
    """The first ``count`` bytes, or all. Raises OSError: EFBIG above MAX_BYTES, EINVAL for what is not regular."""
    if is_remote(path):
        return read_remote(path, count, MAX_BYTES)
    with open(path, "rb", opener=open_regular) as file:
        size = os.fstat(file.fileno()).st_size
        if count < 0 and size > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return file.read(min(count, size))


def open_regular(path: str, flags: int) -> int:
    """An opener that neither waits for the other end of a pipe nor reads what could be endless."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "not a regular file", path)
