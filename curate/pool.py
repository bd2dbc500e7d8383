"""Find every picture of a pool and describe each in one record. Nothing is left out silently."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import UserError
from ..schemas.manifest import RECORD
from .images import Unusable, decode, unusable
from .parallel import map_in_order
from .scores import SCORES, score
from .uris import Roots, is_archive, make_uri, members, read_bytes, read_member, read_start

PICTURE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "webp", "bmp", "dib", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"}
    | {"ico", "qoi", "pcx", "sgi", "tga", "heic", "heif", "jxl"}
)
"""For any other extension the first bytes decide. A format among these that cannot be read is a row that says so."""

_START = 16  # bytes that tell a picture
_HIDDEN = {"__MACOSX", "Thumbs.db", "desktop.ini"}

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A file or archive member that is a picture by its name or its first bytes.

    problem: why it cannot be read, when finding it has already shown that.
    """

    uri: str
    source: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """candidates: sorted by uri, uris unique. others: extension ("" for none) -> files that are no pictures."""

    candidates: list[Candidate]
    others: dict[str, int]


def find(roots: Roots) -> Found:
    """Every picture below the roots, in folders and zip archives, the same list whatever the file system's order.

    Links are followed and each folder is entered once, under its own name where that lies below the root. Hidden files
    (a leading dot, ``__MACOSX``, ``Thumbs.db``) are left out; of the rest, what is not a picture is counted. The source
    of a picture is the first folder below the root; without one, the archive's or the root's own name.
    Raises UserError when a root is neither a folder nor a readable zip archive.
    """
    candidates: list[Candidate] = []
    others: Counter[str] = Counter()
    for name, root in roots.items():
        if is_archive(root) and Path(root).is_file():
            entries = _entries_of_archive(root, "", others)
        elif Path(root).is_dir():
            entries = _entries_of_folder(root, others)
        else:
            raise UserError(f"{root} is neither a folder nor a .zip archive: name one that holds pictures")
        candidates += (_candidate(entry, name, roots) for entry in entries)
    return Found(candidates=_unique(candidates), others=dict(sorted(others.items())))


def scan(found: Found, roots: Roots, *, workers: int) -> Iterator[Record]:
    """One record per candidate, in order: the columns of schemas.manifest.RECORD and one float or None per score.

    Each file is read once. A picture that cannot be used has a status and a reason; id (BLAKE2b-128 of the encoded
    bytes, in hex) is None only where no bytes could be read. Every role is ``pool``.
    workers: threads, see map_in_order.
    """
    return map_in_order(lambda candidate: _record(candidate, roots), found.candidates, workers=workers)


def to_table(records: Iterable[Record]) -> pa.Table:
    """Records as a table: the columns of RECORD, then a float32 column per score."""
    schema = pa.schema([*RECORD, *(pa.field(name, pa.float32()) for name in SCORES)])
    return pa.Table.from_pylist(list(records), schema=schema)


def content_id(data: bytes) -> str:
    """BLAKE2b-128 of encoded bytes, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def mark_duplicates(table: pa.Table) -> pa.Table:
    """Of the usable pictures with one id, keep one: a clean one if there is one, then the first in the table.

    The others get status ``duplicate`` and a reason that names the one kept. table: at least the columns of RECORD.
    """
    columns = {
        name: table[name].cast(pa.string()).combine_chunks() for name in ("id", "uri", "status", "role", "reason")
    }
    rows = np.flatnonzero(pc.equal(columns["status"], "ok").to_numpy(zero_copy_only=False))
    ids = columns["id"].take(pa.array(rows)).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    in_pool = pc.not_equal(columns["role"], "clean").to_numpy(zero_copy_only=False)[rows]
    order = np.lexsort((rows, in_pool, ids))
    first = np.ones(len(rows), dtype=bool)
    first[1:] = np.diff(ids[order]) != 0
    kept = np.full(table.num_rows, -1, dtype=np.int64)
    kept[rows[order]] = rows[order][np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]
    doubled = pa.array((kept >= 0) & (kept != np.arange(table.num_rows)))
    same_as = columns["uri"].take(pa.array(np.maximum(kept, 0)))
    reason = pc.binary_join_element_wise("same content as", same_as, " ")
    table = replaced(table, "status", pc.if_else(doubled, "duplicate", columns["status"]))
    return replaced(table, "reason", pc.if_else(doubled, reason, columns["reason"]))


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with other values in a column, whose type and place stay."""
    index = table.schema.get_field_index(name)
    field = table.schema.field(index)
    encoded = values.dictionary_encode() if pa.types.is_dictionary(field.type) else values
    return table.set_column(index, field, encoded.cast(field.type))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    path: str
    member: str | None = None
    problem: str | None = None


def _entries_of_folder(root: str, others: Counter[str]) -> Iterator[_Entry]:
    """Pictures below a folder. Linked folders come after all others, so that a folder keeps its own name."""
    folders, links, entered = [""], list[str](), set[tuple[int, int]]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(f"{root}/{folder}")  # noqa: PTH116 (as in uris)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(f"{root}/{folder}") as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            yield _Entry(path=folder, problem=f"the folder cannot be listed: {error.strerror}")
            continue
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            if _is_hidden(child.name):
                continue
            if _is_folder(child):
                (links if child.is_symlink() else folders).append(path)
            elif is_archive(path) and _is_regular(child):
                yield from _entries_of_archive(f"{root}/{path}", path, others)
            elif _is_picture(path, child, others):
                yield _Entry(path=path)


def _entries_of_archive(archive: str, path: str, others: Counter[str]) -> Iterator[_Entry]:
    """Pictures in a zip archive. path: relative to the root, or "" when the archive is the root."""
    try:
        infos = [info for info in members(archive) if not info.is_dir()]
    except Exception as error:
        if not path:
            raise UserError(f"{archive} is not a readable zip archive ({unusable(error).reason})") from error
        yield _Entry(path=path, problem=f"not a readable zip archive ({unusable(error).reason})")
        return
    times = Counter(info.filename for info in infos)
    for info in infos:
        name = info.filename
        if any(_is_hidden(part) for part in PurePosixPath(name).parts):
            continue
        extension = _extension(name)
        if extension not in PICTURE_EXTENSIONS and not _starts_like_picture(
            partial(read_member, archive, name, _START)
        ):
            others[extension] += 1
            continue
        times[name] -= 1
        problem = f"a later member of the archive has the same name ({times[name]} more)" if times[name] else None
        yield _Entry(path=path, member=name, problem=problem) if path else _Entry(path=name, problem=problem)


def _candidate(entry: _Entry, name: str, roots: Roots) -> Candidate:
    uri = make_uri(entry.path, entry.member, root=name, roots=roots)
    first, slash, _ = entry.path.partition("/")
    source = first if slash or entry.member is not None else Path(roots[name]).name
    candidate = Candidate(uri=uri, source=_readable(source), problem=entry.problem)
    if _readable(uri) == uri:
        return candidate
    return replace(candidate, uri=_readable(uri), problem="the file's name is not valid UTF-8: rename it")


def _readable(name: str) -> str:
    """A name without the bytes that are not valid UTF-8: each is written as ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _unique(candidates: list[Candidate]) -> list[Candidate]:
    """Sorted by uri. A candidate that cannot be read and shares the uri of another is given a number."""
    taken = {candidate.uri for candidate in candidates if candidate.problem is None}
    out = []
    for candidate in candidates:
        if candidate.problem is None:
            out.append(candidate)
            continue
        uri, number = candidate.uri, 1
        while uri in taken:
            uri, number = f"{candidate.uri}#{number}", number + 1
        taken.add(uri)
        out.append(replace(candidate, uri=uri))
    return sorted(out, key=lambda candidate: candidate.uri)


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name in _HIDDEN


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _is_regular(child: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(child.stat().st_mode)
    except OSError:
        return False


def _is_picture(path: str, child: os.DirEntry[str], others: Counter[str]) -> bool:
    """By extension, whatever the entry is, or by the first bytes of a regular file; what is neither is counted."""
    extension = _extension(path)
    if extension in PICTURE_EXTENSIONS:
        return True
    if _is_regular(child) and _starts_like_picture(partial(read_start, child.path, _START)):
        return True
    others[_readable(extension)] += 1
    return False


def _extension(path: str) -> str:
    """Lower case, without the dot."""
    return PurePosixPath(path).suffix[1:].lower()


def _starts_like_picture(read: Callable[[], bytes]) -> bool:
    """Whether the first bytes are those of JPEG, PNG, GIF, BMP, TIFF or WebP."""
    try:
        start = read()
    except Exception:  # noqa: BLE001 (what cannot be read does not look like a picture)
        return False
    magic = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)  # its reserved field is zero
    return start.startswith(magic) or bitmap or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def _record(candidate: Candidate, roots: Roots) -> Record:
    record: Record = {**dict.fromkeys([*RECORD.names, *SCORES]), "uri": candidate.uri, "source": candidate.source}
    record |= {"role": "pool", "status": "unreadable", "reason": candidate.problem}
    if candidate.problem is not None:
        return record
    try:
        data = read_bytes(candidate.uri, roots)
        record |= {"id": content_id(data), "num_bytes": len(data)}
        picture = decode(data)
    except Exception as error:  # noqa: BLE001 (any file may fail in any way: each is one row, and the run goes on)
        return record | _failure(unusable(error))
    size = {"width": picture.width, "height": picture.height, "format": picture.format}
    return record | size | score(picture.pixels) | {"status": "ok", "reason": None}


def _failure(error: Unusable) -> Record:
    return {
        "status": error.status,
        "reason": error.reason,
        "width": error.width,
        "height": error.height,
        "format": error.format,
    }
