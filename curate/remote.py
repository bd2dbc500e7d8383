"""Files that lie elsewhere: s3://, gs://, hf:// and whatever else fsspec knows, which is imported only for these."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..schemas.errors import UserError

_FOLDED = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)")


def is_remote(path: str) -> bool:
    return "://" in path


def address(path: Path) -> str:
    """Absolute path, or the url that pathlib has folded: it makes ``s3:/bucket/a`` of ``s3://bucket/a``."""
    folded = _FOLDED.match(str(path))
    if folded is None or path.exists():
        return str(path.resolve())
    rest = str(path)[folded.end() :]
    return f"{folded[1]}://{'/' if folded[1] in ('file', 'local') else ''}{rest}"


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a url, and its path there. Raises UserError where a package is missing."""
    import fsspec.core

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        scheme = url.partition("://")[0]
        raise UserError(f"{scheme}:// cannot be read: {error} (python -m pip install it beside ambient)") from error
    return filesystem, path


class RemoteFile:
    """A file that fsspec reads. Threads may share it; so may forked processes, for nothing of it stays open."""

    def __init__(self, url: str) -> None:
        self._url = url
        there, path = filesystem(url)
        self.size = int(there.size(path) or 0)

    def read_at(self, offset: int, count: int) -> bytes:
        there, path = filesystem(self._url)
        end = min(offset + count, self.size)
        return there.cat_file(path, start=offset, end=end) if end > offset else b""

    def stream(self) -> BinaryIO:
        there, path = filesystem(self._url)
        opened: BinaryIO = there.open(path, "rb")
        return opened


def read_remote(url: str, count: int, most: int) -> bytes:
    """The first ``count`` bytes, or all. Raises OSError: EFBIG above ``most`` bytes; and what fsspec raises."""
    there, path = filesystem(url)
    data: bytes = there.cat_file(path, start=0, end=most + 1 if count < 0 else count)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), url)
    return data


def is_remote_folder(url: str) -> bool:
    """Raises UserError where there is nothing, or no way to see it."""
    there, path = filesystem(url)
    try:
        if there.isdir(path):
            return True
        if there.exists(path):
            return False
    except Exception as error:  # each kind of storage raises its own
        raise UserError(f"{url} cannot be reached: {error}") from error
    raise UserError(f"there is nothing at {url}: name a folder or an archive of pictures")


def walk(url: str) -> Iterator[tuple[str, set[str]]]:
    """Every folder below a url, "" for itself, and the names of its files. Raises UserError."""
    there, top = filesystem(url)
    try:
        for folder, _, files in there.walk(top, on_error="raise"):
            yield folder.removeprefix(top).strip("/"), {name for name in files if name}
    except Exception as error:  # each kind of storage raises its own
        raise UserError(f"{url} cannot be listed: {error}") from error
