"""A picture's address and its bytes.

A root is a folder or a zip archive with a name; roots map names to absolute paths. A uri is ``[name:]path[!/member]``:

- ``cats/a.jpg`` lies in the root ``pool``, ``extra:cats/a.jpg`` in the root ``extra``. A path of the pool that begins
  with the name of a root and a colon is written ``pool:path``, so that no two pictures share a uri.
- ``cats/shard.zip!/dir/a.jpg`` is the member ``dir/a.jpg`` of an archive. A *folder* whose name ends in ``.zip!`` is
  written with one more ``!``.
- A root that is itself an archive is addressed as the folder it would unpack to: ``dir/a.jpg``.
"""

import errno
import os
import re
import stat
import threading
import zipfile
from collections import OrderedDict

from ..schemas.errors import UserError
from ..schemas.manifest import MAIN_ROOT

Roots = dict[str, str]
"""Name -> absolute path of a folder or of a zip archive. ``pool`` is the one whose uris carry no name."""

MAX_BYTES = 1 << 30  # of one encoded picture; a larger file is not read
_MAX_ARCHIVES = 32  # open at a time

_BANGS = re.compile(r"(?<=\.zip)(!+)(?=/)", re.IGNORECASE)

_archives: OrderedDict[tuple[str, int, int], zipfile.ZipFile] = OrderedDict()
_lock = threading.Lock()


def make_uri(path: str, member: str | None = None, *, root: str = MAIN_ROOT, roots: Roots) -> str:
    """Uri of the file ``path`` (relative to the root, with ``/``), or of a member of the archive ``path``.

    In a root that is an archive, ``path`` is the member's name.
    """
    if not is_archive(roots[root]):
        path = _BANGS.sub(r"\1!", path)
    uri = path if member is None else f"{path}!/{member}"
    name, colon, _ = path.partition(":")
    looks_named = bool(colon) and name in {*roots, MAIN_ROOT}
    return f"{root}:{uri}" if root != MAIN_ROOT or looks_named else uri


def split_uri(uri: str, roots: Roots) -> tuple[str, str, str | None]:
    """(path of the root, path relative to it or "" when the root is the archive, member of the archive or None)."""
    name, colon, rest = uri.partition(":")
    if not colon or name not in {*roots, MAIN_ROOT}:
        name, rest = MAIN_ROOT, uri
    root = roots[name]
    if is_archive(root):
        return root, "", rest
    for bangs in _BANGS.finditer(rest):
        if len(bangs[1]) == 1:
            return root, _unescape(rest[: bangs.start()]), rest[bangs.end() + 1 :]
    return root, _unescape(rest), None


def relocated(roots: Roots, moved: Roots, manifest: str) -> Roots:
    """The roots of a manifest, some of which lie elsewhere now. Raises UserError for a name that it does not have."""
    if unknown := sorted(set(moved) - set(roots)):
        raise UserError(f"{manifest} has no root named {unknown[0]!r}: its roots are {', '.join(sorted(roots))}")
    return {**roots, **moved}


def is_archive(path: str) -> bool:
    """Whether path has an archive's name. Nothing is read."""
    return path.lower().endswith(".zip") and not os.path.isdir(path)  # noqa: PTH112 (called once per uri: must be fast)


def read_bytes(uri: str, roots: Roots) -> bytes:
    """The encoded picture.

    Raises what reading raises: OSError (EFBIG above MAX_BYTES, EINVAL for what is not a regular file),
    zipfile.BadZipFile, KeyError for a missing root or member, RuntimeError for an encrypted member. Threads may share
    archives.
    """
    root, path, member = split_uri(uri, roots)
    where = f"{root}/{path}" if path else root
    if member is not None:
        return read_member(where, member)
    with open(where, "rb", opener=_open_regular) as file:
        return file.read()


def read_member(archive: str, member: str, count: int = -1) -> bytes:
    """The first ``count`` bytes, or all, of a member of the zip archive at this path. Errors as read_bytes."""
    with _lock:
        # The directory of an archive is read once; opening and closing a member counts references without a lock.
        zipped = _opened(archive)
        info = zipped.getinfo(member)
        if info.file_size > MAX_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        file = zipped.open(info)
    try:
        return file.read(count)
    finally:
        with _lock:
            file.close()


def read_start(path: str, count: int) -> bytes:
    """The first ``count`` bytes of the regular file at path. Errors as read_bytes."""
    with open(path, "rb", opener=_open_regular) as file:
        return file.read(count)


def members(archive: str) -> list[zipfile.ZipInfo]:
    """What the zip archive at the path ``archive`` lists, in its order. Errors as read_bytes."""
    with _lock:
        return _opened(archive).infolist()


def close_archives() -> None:
    """Close every archive that reading has left open. They are opened again when needed."""
    with _lock:
        while _archives:
            _archives.popitem()[1].close()


def _forget_archives() -> None:
    """Start afresh in a forked process: it shares the position in every open file with its parent."""
    global _lock
    _lock = threading.Lock()
    _archives.clear()


os.register_at_fork(after_in_child=_forget_archives)


def _opened(archive: str) -> zipfile.ZipFile:
    """The archive, from the most recently used ones. Call with the lock held."""
    status = os.stat(archive)  # noqa: PTH116 (called once per picture: must be fast)
    key = (archive, status.st_mtime_ns, status.st_size)
    if key not in _archives:
        _archives[key] = zipfile.ZipFile(archive)
        if len(_archives) > _MAX_ARCHIVES:
            _archives.popitem(last=False)[1].close()
    _archives.move_to_end(key)
    return _archives[key]


def _open_regular(path: str, flags: int) -> int:
    """An opener that neither waits for the other end of a pipe nor reads what could be endless."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISREG(status.st_mode):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _unescape(path: str) -> str:
    return _BANGS.sub(lambda bangs: bangs[1][:-1], path)
