"""Find every picture of a pool and describe each in one record. Nothing is left out silently."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.errors import UserError
from ..schemas.manifest import RECORD
from . import digests
from .aside import Aside
from .beside import read_beside
from .candidates import Candidate, Candidates
from .images import Unusable, decode, is_heavy, unusable
from .listing import PACKED_TARS, Entry, list_file, list_folder, list_remote, readable
from .parallel import apart, map_in_order
from .processes import LateError, is_worker
from .remote import is_remote, is_remote_folder
from .scores import SCORES, score
from .uris import Roots, encoded, first_dot, is_archive, make_uri, read_bytes

CORRUPTED = ("corruption.json", "corruption.parquet")
"""What ``ambient corrupt`` writes into a folder first, and last."""
Record = dict[str, Any]
KNOWN = ("label", "caption")
"""What of a record is told by other files than the picture."""
Duplicates = Literal["mark", "keep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """candidates: sorted by uri, uris unique. others: extension ("" for none) -> files that are no pictures.

    hidden: files and folders that are left out by their names. warnings: lines about what was told in vain.
    """

    candidates: Candidates
    others: dict[str, int]
    hidden: int = 0
    warnings: tuple[str, ...] = ()


def find(roots: Roots) -> Found:
    """Every picture below the roots, in folders and archives, the same list whatever the file system's order.

    Links are followed and each folder is entered once, under its own name where that lies below the root. Hidden files
    (a leading dot, ``__MACOSX``, ``Thumbs.db``) are left out; of the rest, what is neither a picture nor tells about
    one is counted. The source of a picture is the first folder below the root; without one, the archive's or the root's
    own name. Raises UserError when a root is neither a folder nor a readable archive, or half of what `ambient corrupt`
    was to write.
    """
    aside = Aside()
    candidates = Candidates.collect(
        _candidate(entry, name, roots) for name, root in roots.items() for entry in _entries(root, aside)
    )
    others = {kind: count for kind, count in sorted(aside.files.items()) if count > 0}
    return Found(candidates=candidates, others=others, hidden=aside.hidden, warnings=tuple(aside.warnings()))


def scan(found: Found, roots: Roots, *, workers: int) -> Iterator[Record]:
    """One record per candidate, in order: the columns of schemas.manifest.RECORD and one float or None per score.

    Each file is read once. A picture that cannot be used has a status and a reason; id (BLAKE2b-128 of the encoded
    bytes, in hex) is None only where no bytes could be read, or a process took longer than LIMIT_S from reading them
    to the scores. Every role is ``pool``.
    workers: threads or processes, see map_in_order. Threads leave to processes what may take long by its header; what
    else they do, reading above all, takes the time it takes.
    """
    local = not any(map(is_remote, roots.values()))
    look = partial(_record, roots=roots)
    return map_in_order(look, found.candidates, workers=workers, processes=local, late=_late)


def to_table(records: Iterable[Record]) -> pa.Table:
    """Records as a table: the columns of RECORD, then a float32 column per score."""
    schema = pa.schema([*RECORD, *(pa.field(name, pa.float32()) for name in SCORES)])
    return pa.Table.from_pylist(list(records), schema=schema)


def content_id(data: bytes) -> str:
    """BLAKE2b-128 of encoded bytes, 32 hex digits."""
    return digests.of_bytes(data)


def settle_duplicates(table: pa.Table, how: Duplicates) -> pa.Table:
    """Mark copies, or keep them: then a copy of a clean picture is clean, so that none is on both sides."""
    if how == "mark":
        return mark_duplicates(table)
    clean = pc.equal(table["role"].cast(pa.string()), "clean")
    ids = table["id"].filter(pc.and_(clean, pc.equal(table["status"].cast(pa.string()), "ok")))
    copies = pc.is_in(table["id"], value_set=ids.combine_chunks().drop_null())
    return replaced(table, "role", pc.if_else(copies, "clean", table["role"].cast(pa.string())))


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


def _entries(root: str, aside: Aside) -> Iterator[Entry]:
    if is_remote(root) and is_remote_folder(root):
        return list_remote(root, aside)
    if is_archive(root) and (is_remote(root) or Path(root).is_file()):
        return list_file(root, "", aside)
    if Path(root).is_dir():
        begun, ended = (Path(root, name) for name in CORRUPTED)
        if begun.exists() and not ended.exists():
            raise UserError(f"{root} is half of what `ambient corrupt` was to write: give that command again first")
        return list_folder(root, aside)
    if root.lower().endswith(PACKED_TARS):
        raise UserError(f"{root} is compressed: decompress it to a .tar, whose members can be read where they lie")
    raise UserError(f"{root} is neither a folder nor a .zip, .tar, .parquet or .txt file: name one that holds pictures")


def _candidate(entry: Entry, name: str, roots: Roots) -> Candidate:
    uri = make_uri(entry.path, entry.member, root=name, roots=roots)
    problem = entry.problem
    if readable(uri) != uri:
        problem = "the file's name is not valid UTF-8: rename it"
    return Candidate(
        uri=readable(uri),
        source=readable(_source(entry, roots[name])),
        problem=problem,
        label=entry.label,
        caption=entry.caption,
        beside=entry.beside,
    )


def _source(entry: Entry, root: str) -> str:
    """The first folder, or the archive's or the root's own name; of an absolute path in a list, the last folder."""
    if entry.path.startswith("/") or "://" in entry.path:
        return entry.path.split("/")[-1 if entry.member else -2]
    first, slash, _ = entry.path.partition("/")
    return first if slash or entry.member is not None else Path(root).name


def _record(candidate: Candidate, roots: Roots) -> Record:
    record = _unread(candidate)
    if candidate.problem is not None:
        return record
    with ExitStack() as reading:
        try:
            data = reading.enter_context(encoded(candidate.uri, roots))
        except Exception as error:  # noqa: BLE001 (any file may fail in any way: each is one row, and the run goes on)
            return record | _failure(unusable(error))
        record |= {"id": content_id(data), "num_bytes": len(data)}
        record |= apart(_seen, data, _not_seen) if not is_worker() and is_heavy(data) else _seen(data)
    return record | told(candidate, roots) if record["status"] == "ok" else record


def _unread(candidate: Candidate) -> Record:
    record: Record = {**dict.fromkeys([*RECORD.names, *SCORES]), "uri": candidate.uri, "source": candidate.source}
    record |= {"role": "pool", "status": "unreadable", "reason": candidate.problem}
    return record | known_of(candidate)


def _late(candidate: Candidate, error: LateError) -> Record:
    return _unread(candidate) | _failure(unusable(error))


def _seen(data: bytes) -> Record:
    """What decoding an encoded picture tells."""
    try:
        picture = decode(data)
    except Unusable as error:
        return _failure(error)
    size = {"width": picture.width, "height": picture.height, "format": picture.format}
    return size | score(picture.pixels) | {"status": "ok", "reason": None}


def _not_seen(_data: bytes, error: LateError) -> Record:
    return _failure(unusable(error))


def known_of(candidate: Candidate) -> Record:
    """Label and caption, as far as they are known before anything is read."""
    return {name: getattr(candidate, name) for name in KNOWN}


def told(candidate: Candidate, roots: Roots) -> Record:
    """Label and caption, as far as the files beside a picture tell them."""
    if not candidate.beside:
        return {}
    label, caption = read_beside(
        candidate.uri,
        candidate.beside,
        lambda uri, count: read_bytes(uri, roots, count),
        first_dot=first_dot(candidate.uri, roots),
    )
    told = {"label": label, "caption": caption}
    return {name: value for name, value in told.items() if value is not None}


def _failure(error: Unusable) -> Record:
    return {
        "status": error.status,
        "reason": error.reason,
        "width": error.width,
        "height": error.height,
        "format": error.format,
    }
