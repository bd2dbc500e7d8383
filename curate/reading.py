"""The stage that reads a pool: every file once, part by part."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..schemas.errors import UserError
from .aside import unlabelled
from .manifest import Work, write_table
from .pool import Found, scan, to_table
from .reporter import Reporter
from .uris import Roots

RECORDS_PER_PART = 4096


def collect(found: Found, roots: Roots, work: Work, workers: int, reporter: Reporter) -> pa.Table:
    """Read every file of a pool once: identity, size, status and built-in scores, in parts."""
    tables = []
    with reporter.track("reading", len(found.candidates)) as advance:
        for number, start in enumerate(range(0, len(found.candidates), RECORDS_PER_PART)):
            path = work.part("records", number)
            part = found.candidates[start : start + RECORDS_PER_PART]
            if path.exists():
                advance(len(part))
            else:
                rows = []
                for row in scan(Found(candidates=part, others={}), roots, workers=workers):
                    rows.append(row)
                    advance(1)
                write_table(path, to_table(rows))
            tables.append(pq.read_table(path))
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def usable(records: pa.Table) -> pa.Table:
    """The records. Raises UserError where not one picture can be used."""
    if not pc.any(pc.equal(records["status"].cast(pa.string()), "ok")).as_py():
        first = f"{records['uri'][0].as_py()!r}: {records['reason'][0].as_py()}"
        raise UserError(f"none of the {len(records):,} pictures can be used; the first, {first}")
    return records


def say_found(found: Found, pool: Path, reporter: Reporter) -> None:
    others = ", ".join(f"{count:,} {kind or 'without extension'}" for kind, count in found.others.items())
    if not found.candidates:
        raise UserError(f"there is no picture in {pool}" + (f"; other files: {others}" if others else ""))
    reporter.say(f"found {len(found.candidates):,} pictures in {pool}")
    if others:
        reporter.say(f"left out files that are not pictures: {others}")
    if found.hidden:
        reporter.say(f"left out hidden files and folders: {found.hidden:,}")
    for warning in found.warnings:
        reporter.warn(warning)


def say_unlabelled(found: Found, records: pa.Table, reporter: Reporter) -> None:
    if count := unlabelled(found.candidates, records):
        reporter.warn(f"{count:,} pictures have no label, though a .cls is beside them: it must hold one whole number")
