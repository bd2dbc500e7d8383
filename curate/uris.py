"""A picture's address and its bytes.

A root is a folder, an archive or a list of paths, with a name; roots map names to absolute paths. A uri is
``[name:]path[!/member]``:

- ``cats/a.jpg`` lies in the root ``pool``, ``extra:cats/a.jpg`` in the root ``extra``. A path of the pool that begins
  with the name of a root and a colon is written ``pool:path``, so that no two pictures share a uri.
- ``cats/shard.tar!/dir/a.jpg`` is the member ``dir/a.jpg`` of an archive. A *folder* whose name ends in ``.tar!`` is
  written with one more ``!``. ``cats/a.parquet!/row-000000012`` is a row of a Parquet file with pictures.
- A root that is itself an archive is addressed as the folder it would unpack to: ``dir/a.jpg``. In a root that is a
  list, a uri is what the list says: relative to the list's folder, or absolute.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..schemas.errors import UserError
from ..schemas.manifest import MAIN_ROOT
from . import archives, parquet
from .files import read_file
from .processes import exclusive

Roots = dict[str, str]
"""Name -> absolute path of a folder, an archive or a list of paths. ``pool`` is the one whose uris carry no name."""

ARCHIVES = ("zip", "tar", "parquet")
"""Extensions of what may hold pictures wherever it lies."""

LIST = ".txt"
"""Ending of a root that lists paths, one a line."""

_LARGE = 64 << 20  # bytes: of larger pictures one is in memory at a time, encoded and while it is decoded

_BANGS = re.compile(f"(?:{'|'.join(rf'(?<=[.]{extension})' for extension in ARCHIVES)})(!+)(?=/)", re.IGNORECASE)


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
    return (root, "", rest) if is_archive(root) else (root, *_split_member(rest))


def relocated(roots: Roots, moved: Roots, manifest: str) -> Roots:
    """The roots of a manifest, some of which lie elsewhere now. Raises UserError for a name that it does not have."""
    if unknown := sorted(set(moved) - set(roots)):
        raise UserError(f"{manifest} has no root named {unknown[0]!r}: its roots are {', '.join(sorted(roots))}")
    return {**roots, **moved}


def is_archive(root: str) -> bool:
    """Whether a root has the name of an archive or a list and is no folder."""
    return root.lower().endswith((*_ENDINGS, LIST)) and not os.path.isdir(root)  # noqa: PTH112 (once per uri: fast)


def names_archive(path: str) -> bool:
    """Whether path ends as an archive's name does. Nothing is read."""
    return path.lower().endswith(_ENDINGS)


def read_bytes(uri: str, roots: Roots, count: int = -1) -> bytes:
    """The first ``count`` bytes, or all, of the encoded picture.

    Raises what reading raises: OSError (EFBIG above MAX_BYTES, EINVAL for what is not a regular file),
    zipfile.BadZipFile, tarfile.TarError, pyarrow.ArrowException, KeyError for a missing root or member, ValueError for
    a row without a picture. Threads may share archives.
    """
    root, path, member = split_uri(uri, roots)
    return _read(f"{root}/{path}" if path else root, member, count)


@contextmanager
def encoded(uri: str, roots: Roots) -> Iterator[bytes]:
    """All of read_bytes, to be decoded within the block: until it ends no other worker holds a picture above 64 MiB."""
    data = read_bytes(uri, roots, _LARGE + 1)
    if len(data) <= _LARGE:
        yield data
        return
    del data
    with exclusive():
        yield read_bytes(uri, roots)


def close_archives() -> None:
    """Close every archive that reading has left open. They are opened again when needed."""
    archives.close_archives()
    parquet.close_tables()


def _read(path: str, member: str | None, count: int) -> bytes:
    if member is None:
        return read_file(path, count)
    if path.lower().endswith((".zip", ".tar")):
        return archives.read_member(path, member, count)
    if path.lower().endswith(".parquet"):
        table = parquet.open_table(path)
        if table.columns.image:
            return table.read(parquet.row_of(member))
    return _read(*_split_member(in_list(path, member)), count)


def in_list(path: str, listed: str) -> str:
    """Where a path of a list lies: absolute, or relative to the list's folder."""
    return listed if listed.startswith("/") or "://" in listed else f"{path.rpartition('/')[0]}/{listed}"


def _split_member(path: str) -> tuple[str, str | None]:
    for bangs in _BANGS.finditer(path):
        if len(bangs[1]) == 1:
            return _unescape(path[: bangs.start()]), path[bangs.end() + 1 :]
    return _unescape(path), None


def first_dot(uri: str, roots: Roots) -> bool:
    """Whether what lies beside the picture shares its name up to the first dot: see beside.stem_of."""
    root, path, member = split_uri(uri, roots)
    return member is not None and (path or root).lower().endswith(".tar")


_ENDINGS = tuple(f".{extension}" for extension in ARCHIVES)


def _unescape(path: str) -> str:
    return _BANGS.sub(lambda bangs: bangs[1][:-1], path)
