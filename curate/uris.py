"""A picture's address and its bytes.

A root is a folder or an archive with a name; roots map names to absolute paths. A uri is ``[name:]path[!/member]``:

- ``cats/a.jpg`` lies in the root ``pool``, ``extra:cats/a.jpg`` in the root ``extra``. A path of the pool that begins
  with the name of a root and a colon is written ``pool:path``, so that no two pictures share a uri.
- ``cats/shard.tar!/dir/a.jpg`` is the member ``dir/a.jpg`` of an archive. A *folder* whose name ends in ``.tar!`` is
  written with one more ``!``.
- A root that is itself an archive is addressed as the folder it would unpack to: ``dir/a.jpg``.
"""

import os
import re

from ..schemas.manifest import MAIN_ROOT
from .archives import close_archives as close_archives
from .archives import read_member
from .files import read_file

Roots = dict[str, str]
"""Name -> absolute path of a folder or of an archive. ``pool`` is the one whose uris carry no name."""

ARCHIVES = ("zip", "tar")
"""Extensions."""

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
    if is_archive(root):
        return root, "", rest
    for bangs in _BANGS.finditer(rest):
        if len(bangs[1]) == 1:
            return root, _unescape(rest[: bangs.start()]), rest[bangs.end() + 1 :]
    return root, _unescape(rest), None


def is_archive(path: str) -> bool:
    """Whether path has an archive's name and is no folder."""
    return names_archive(path) and not os.path.isdir(path)  # noqa: PTH112 (called once per uri: must be fast)


def names_archive(path: str) -> bool:
    """Whether path ends as an archive's name does. Nothing is read."""
    return path.lower().endswith(_ENDINGS)


def read_bytes(uri: str, roots: Roots, count: int = -1) -> bytes:
    """The first ``count`` bytes, or all, of the encoded picture.

    Raises what reading raises: OSError (EFBIG above MAX_BYTES, EINVAL for what is not a regular file),
    zipfile.BadZipFile, tarfile.TarError, KeyError for a missing root or member. Threads may share archives.
    """
    root, path, member = split_uri(uri, roots)
    where = f"{root}/{path}" if path else root
    return read_file(where, count) if member is None else read_member(where, member, count)


def first_dot(uri: str, roots: Roots) -> bool:
    """Whether what lies beside the picture shares its name up to the first dot: see beside.stem_of."""
    root, path, member = split_uri(uri, roots)
    return member is not None and (path or root).lower().endswith(".tar")


_ENDINGS = tuple(f".{extension}" for extension in ARCHIVES)


def _unescape(path: str) -> str:
    return _BANGS.sub(lambda bangs: bangs[1][:-1], path)
