"""Damage a share of a pool in known ways, so that what the annotator finds can be compared with what was done.

What happens to a picture depends on the seed and its content id only; which pictures are damaged, on how its random
number ranks among those of the pool.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..schemas.errors import UserError
from ..schemas.manifest import MAIN_ROOT
from . import digests
from .corruptions import Corruption, parse
from .images import U8, decode, unusable
from .parallel import map_in_order
from .pool import CORRUPTED, Record, content_id, find, scan
from .remote import address
from .uris import Roots, encoded, split_uri
from .whole import PARTIAL, is_whole_png, replacing, write_whole, writing

__all__ = ["CLEAN", "DEFAULT_KINDS", "TABLE", "Corruption", "corrupt", "parse"]

CLEAN = "clean"
DEFAULT_KINDS = ("blur-0.6", "blur-1.2", "blur-2.5", "jpeg-50", "jpeg-25", "jpeg-10")
TABLE = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("original", pa.string(), nullable=False),
        pa.field("original_id", pa.string()),
        pa.field("id", pa.string()),
        pa.field("corruption", pa.string()),
        pa.field("strength", pa.float64()),
        pa.field("angle", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""uri, id: of the picture written, relative to OUT. original, original_id: of the picture in the pool. corruption: name
with strength, such as ``blur-0.6``, or ``clean``. angle: degrees, of motion blur. A picture that cannot be used was not
written: its status and reason are the pool's, and only ``original`` and maybe ``original_id`` are there."""

_COMMAND_NAME, TABLE_NAME = CORRUPTED
_LOCK = ".lock"
_MAX_NAME = 230  # bytes of a file name, which leaves room for a number and an extension below the usual 255

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One picture of the pool. uri: of the file to write, None when the picture cannot be used."""

    record: Record
    corruption: Corruption | None = None
    uri: str | None = None
    number: int


def corrupt(
    pool: Path,
    out: Path,
    *,
    corruptions: Sequence[Corruption],
    fraction: float = 0.9,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> pa.Table:
    """Write every usable picture of a pool as PNG at native size below ``out``, round(fraction * N) of them damaged.

    The corruptions get equal shares, as nearly as possible. Files go to ``out/<corruption or clean>/<path>.png``; the
    table returned (schema TABLE, one row per picture found) is also ``out/corruption.parquet``, written last.
    progress: called with (steps done, steps in all), two steps per picture. The same command again finishes what was
    interrupted. Raises UserError when the pool has no usable picture, when out holds anything else, lies inside the
    pool or is being written by another run, and when it cannot be written.
    """
    if not corruptions or not 0 <= fraction <= 1 or seed < 0:
        raise UserError("name at least one corruption, a fraction between 0 and 1, and a seed that is not negative")
    _check_places(pool, out)
    roots = {MAIN_ROOT: address(pool)}
    found = find(roots)
    steps = _Steps(progress, 2 * len(found.candidates))
    records = list(steps.count(scan(found, roots, workers=workers)))
    tasks = _plan(records, roots, list(corruptions), fraction, seed)
    with writing(out), _alone(out):
        _claim(out, records, corruptions, fraction, seed)
        write = partial(_write, out=out, roots=roots, seed=seed)
        rows = steps.count(map_in_order(write, tasks, workers=workers, processes=True))
        table = pa.Table.from_pylist(list(rows), schema=TABLE)
        with replacing(out / TABLE_NAME) as path:
            pq.write_table(table, path)
    return table


class _Steps:
    """Counts what passes through iterators."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def count(self, items: Iterator[Record]) -> Iterator[Record]:
        for item in items:
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
            yield item


def _check_places(pool: Path, out: Path) -> None:
    inside, outside = out.resolve(), pool.resolve()
    if inside == outside or outside in inside.parents:
        raise UserError(f"{out} lies inside {pool}, which would then hold its own damaged pictures: write elsewhere")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder that does not exist yet")
    with writing(out):
        _check_ours(out)


def _check_ours(out: Path) -> None:
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if _COMMAND_NAME not in names and names - {_LOCK, _COMMAND_NAME + PARTIAL}:
        raise UserError(f"{out} is not empty: name a folder that does not exist yet")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Make ``out`` and hold it against other runs. The lock is removed; one that a kill leaves locks nothing."""
    _check_ours(out)  # again: reading the pool took a while
    out.mkdir(parents=True, exist_ok=True)
    lock = out / _LOCK
    with lock.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):  # gone where a run has just ended
            same = False
        if not same:
            raise UserError(f"another run is writing {out}: wait for it or name another folder")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _claim(out: Path, records: list[Record], corruptions: Sequence[Corruption], fraction: float, seed: int) -> None:
    """Write down in ``out`` which command fills it, or check that it was this one."""
    content = digests.of_json([[r["uri"], r["id"]] for r in records])
    names = [corruption.name for corruption in corruptions]
    command = {"corruptions": names, "fraction": fraction, "seed": seed, "pool": content}
    note = out / _COMMAND_NAME
    if note.is_file():
        if _noted(note) != command:
            raise UserError(f"{out} holds the output of another pool or command: name another folder or delete it")
        return
    write_whole(note, json.dumps(command).encode())


def _noted(note: Path) -> Any:
    try:
        return json.loads(note.read_bytes())
    except ValueError as error:
        raise UserError(f"{note} is damaged: delete {note.parent} or name another folder") from error


def _plan(
    records: list[Record], roots: Roots, corruptions: list[Corruption], fraction: float, seed: int
) -> list[_Task]:
    """A task per record, in order."""
    usable = [row for row, record in enumerate(records) if record["status"] == "ok"]
    if not usable:
        raise UserError(f"{roots[MAIN_ROOT]} has no usable picture ({len(records)} found): name a folder of pictures")
    damaged = round(fraction * len(usable))
    which = {row: _random(records[row], seed).random(2).tolist() for row in usable}
    chosen = sorted(usable, key=lambda row: (which[row][0], row))[:damaged]
    chosen.sort(key=lambda row: (which[row][1], row))
    corruption = {row: corruptions[rank * len(corruptions) // damaged] for rank, row in enumerate(chosen)}
    folders = {row: corruption[row].name if row in corruption else CLEAN for row in usable}
    uris = dict(zip(usable, _file_names([(folders[row], records[row]["uri"]) for row in usable], roots), strict=True))
    return [
        _Task(record=record, corruption=corruption.get(row), uri=uris.get(row), number=row)
        for row, record in enumerate(records)
    ]


def _random(record: Record, seed: int) -> np.random.Generator:
    """Random numbers of one picture: first the two that choose, then those of the corruption."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(record["id"], 16)])))


def _file_names(wanted: list[tuple[str, str]], roots: Roots) -> list[str]:
    """Paths below ``out`` for (folder, uri) pairs: all different, even ignoring case, none above ``out``."""
    paths = []
    for folder, uri in wanted:
        _, path, member = split_uri(uri, roots)
        *parents, name = [_safe(part) for part in f"{path}/{member or ''}".split("/") if part]
        paths.append(("/".join([folder, *parents]), _shortened(Path(name).stem)))
    taken = {str(parent).casefold() for folder, _ in paths for parent in [Path(folder), *Path(folder).parents]}
    out = []
    for folder, stem in paths:
        path, number = f"{folder}/{stem}.png", 2
        while path.casefold() in taken:
            path, number = f"{folder}/{stem}-{number}.png", number + 1
        taken.add(path.casefold())
        out.append(path)
    return out


def _safe(part: str) -> str:
    return _shortened("_" * len(part) if part in (".", "..") else part.replace("\\", "_"))


def _shortened(name: str) -> str:
    """A name of at most _MAX_NAME bytes: a longer one ends in a hash of itself."""
    data = name.encode()
    if len(data) <= _MAX_NAME:
        return name
    return data[: _MAX_NAME - 17].decode(errors="ignore") + "-" + hashlib.blake2b(data, digest_size=8).hexdigest()


def _write(task: _Task, out: Path, roots: Roots, seed: int) -> dict[str, Any]:
    """Write one picture unless it is there whole, and return its row of the table."""
    record, corruption = task.record, task.corruption
    row: dict[str, Any] = {"original": record["uri"], "original_id": record["id"]}
    row |= {"status": record["status"], "reason": record["reason"]}
    if task.uri is None:
        return row
    random = _random(record, seed)
    random.random(2)
    pixels = _pixels(record, roots)
    if corruption is not None:
        pixels, drawn = corruption(pixels, random)
        row |= {"strength": corruption.strength, **drawn}
    path = out / task.uri
    if not is_whole_png(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A short name of its own, hidden: one left by a kill is no picture, and the next run writes over it.
        with replacing(path, name=f".{task.number}.part", synced=False) as part:
            Image.fromarray(pixels).save(part, "PNG")
    name = CLEAN if corruption is None else corruption.name
    return row | {"uri": task.uri, "id": content_id(path.read_bytes()), "corruption": name}


def _pixels(record: Record, roots: Roots) -> U8:
    try:
        with encoded(record["uri"], roots) as data:
            if content_id(data) == record["id"]:
                return decode(data).pixels
        reason = "it has changed"
    except Exception as error:  # noqa: BLE001 (any file may fail in any way)
        reason = unusable(error).reason
    raise UserError(f"{record['uri']} was good a moment ago, but now: {reason}. Run the command again")
