"""Adding to a manifest: what is new or changed is annotated as the rest was, and the rest is left as it is.

The classifier and the clean set stay those that the manifest was made with, so old and new thresholds mean the same.
Whether a picture has changed is read from its bytes (its id), not from a time. Labels and captions are told anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..schemas.errors import UserError
from ..schemas.manifest import ANNOTATION, RECORD, THRESHOLDS, Metadata, read_metadata
from . import digests
from .candidates import Candidate
from .columns import is_
from .parallel import map_in_order
from .pool import (
    KNOWN,
    Duplicates,
    Found,
    Record,
    content_id,
    known_of,
    replaced,
    settle_duplicates,
    told,
)
from .reporter import Reporter
from .rethreshold import DECIDED_AGAIN
from .uris import Roots, encoded

_NAMED = 5  # pictures that a message names
_LABELLED = {"ok", "duplicate"}  # status of pictures whose labels are read, where they lie beside them


def classifier_beside(manifest: Path) -> Path:
    """Where the classifier lies that a manifest was made with."""
    return manifest.with_name(manifest.name + ".classifier")


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A manifest to add to.

    classifier: None for one that was made without. rows: those whose pictures are there, unchanged; fresh: the others
    of the pool. clean_ids: of its clean pictures, vanished ones too.
    """

    metadata: Metadata
    classifier: Path | None
    rows: pa.Table
    fresh: Found
    clean_ids: pa.Array


def past(manifest: Path, found: Found, roots: Roots, options: str, *, workers: int, reporter: Reporter) -> Past:
    """What of a manifest still holds. options: digest of the options now.

    Raises UserError where the manifest was made with other options or its classifier is not beside it.
    """
    metadata = read_metadata(manifest)
    if metadata.options.startswith(DECIDED_AGAIN):
        raise UserError(
            f"the thresholds of {manifest} were decided again ({metadata.command}): update the manifest that they were "
            "decided from and repeat that, or use --overwrite"
        )
    if metadata.options != options:
        raise UserError(f"--update needs the options that {manifest} was made with: {metadata.command}")
    classifier = _checked_classifier(manifest, metadata) if metadata.classifier else None
    old = pq.read_table(manifest)
    at, old = _compared(old, found, roots, workers, reporter)
    if len(old) and not (at >= 0).any() and metadata.roots != roots:
        raise UserError(
            f"{manifest} is of another pool, {', '.join(metadata.roots.values())}, of which nothing is here: give that "
            "one, another -o, or --overwrite"
        )
    vanished = old["uri"].filter(pc.invert(pc.is_in(old["uri"], value_set=found.candidates.uris.combine_chunks())))
    if len(vanished):
        names = ", ".join(vanished[:_NAMED].to_pylist()) + (", ..." if len(vanished) > _NAMED else "")
        reporter.say(f"{len(vanished):,} pictures have vanished and leave the manifest: {names}")
    fresh = Found(candidates=found.candidates.where(at < 0), others=found.others)
    new = int(pc.sum(pc.invert(pc.is_in(fresh.candidates.uris, value_set=old["uri"].combine_chunks()))).as_py() or 0)
    reporter.say(
        f"{new:,} new and {len(fresh.candidates) - new:,} changed or unreadable pictures; the other "
        f"{(at >= 0).sum():,} stay"
    )
    clean = old["id"].filter(pa.array(is_(old, "status", "ok") & is_(old, "role", "clean"))).combine_chunks()
    rows = old.take(pa.array(at[at >= 0]))
    return Past(metadata=metadata, classifier=classifier, rows=rows, fresh=fresh, clean_ids=clean)


def by_name(manifest: Path, found: Found) -> dict[str, int]:
    """How many pictures are new, are to be compared because their name is known, and have vanished."""
    read_metadata(manifest)
    old = pq.read_table(manifest, columns=["uri"])["uri"].combine_chunks()
    known = int(pc.sum(pc.is_in(found.candidates.uris, value_set=old)).as_py() or 0)
    num = len(found.candidates)
    return {"pictures_new": num - known, "pictures_to_compare": known, "pictures_vanished": len(old) - known}


def _checked_classifier(manifest: Path, metadata: Metadata) -> Path:
    classifier = classifier_beside(manifest)
    if not classifier.is_file():
        raise UserError(f"the classifier that made {manifest} is not at {classifier}: put it back, or use --overwrite")
    if digests.of_file(classifier) != metadata.classifier:
        raise UserError(f"{classifier} is not the classifier that made {manifest}: put that back, or use --overwrite")
    return classifier


def _compared(
    old: pa.Table, found: Found, roots: Roots, workers: int, reporter: Reporter
) -> tuple[NDArray[np.int64], pa.Table]:
    """(N,) for each candidate its row in the manifest, or -1 where there is none that still holds; and the manifest.

    With labels and captions as they are now; one that is told no longer is kept, for what told it may be damaged.
    """
    row = pc.fill_null(pc.index_in(found.candidates.uris, value_set=old["uri"].combine_chunks()), -1)
    at: NDArray[np.int64] = row.to_numpy().astype(np.int64)
    ids = old["id"].combine_chunks()
    known = np.flatnonzero(at >= 0)
    before = {name: old[name].combine_chunks() for name in KNOWN}
    status = old["status"].cast(pa.string()).to_numpy(zero_copy_only=False)
    relabelled: dict[int, Record] = {}
    gone = 0
    with reporter.track("comparing", len(known)) as advance:
        looked_at = map_in_order(lambda each: _now(each, roots), found.candidates.where(at >= 0), workers=workers)
        for place, (now, labels) in zip(known.tolist(), looked_at, strict=True):
            number = int(at[place])
            if now is None or now != ids[number].as_py():
                at[place] = -1
            elif status[number] in _LABELLED:
                old_labels = {name: before[name][number].as_py() for name in KNOWN}
                told_now = {name: value for name, value in labels.items() if value is not None}
                gone += any(value is not None and name not in told_now for name, value in old_labels.items())
                if told_now != {name: old_labels[name] for name in told_now}:
                    relabelled[number] = old_labels | told_now
            advance(1)
    # What could not be read, or took too much memory, may be readable now.
    hopeless = is_(old, "status", "unreadable") | is_(old, "status", "too_large")
    at[known] = np.where(hopeless[at[known]], -1, at[known])
    # A duplicate whose original is gone is a picture in its own right.
    names = ids.to_numpy(zero_copy_only=False)
    kept = set(names[at[at >= 0]][status[at[at >= 0]] == "ok"].tolist())
    for place in np.flatnonzero(at >= 0).tolist():
        if status[at[place]] == "duplicate" and names[at[place]] not in kept:
            at[place] = -1
    if gone:
        reporter.warn(f"{gone:,} pictures had a label or caption that is nowhere now: they keep it")
    if relabelled:
        reporter.say(f"{len(relabelled):,} pictures have another label or caption now")
    return at, _relabelled(old, relabelled)


def _now(candidate: Candidate, roots: Roots) -> tuple[str | None, Record]:
    """Content id, label and caption of a picture."""
    known = known_of(candidate)
    try:
        with encoded(candidate.uri, roots) as data:
            return content_id(data), known | told(candidate, roots)
    except Exception:  # noqa: BLE001 (it will be read again, and the reason written down)
        return None, known


def _relabelled(table: pa.Table, labels: dict[int, Record]) -> pa.Table:
    """The table with other labels and captions in some rows. labels: row -> both."""
    mask = np.isin(np.arange(len(table)), list(labels))
    for name in KNOWN if labels else ():
        column = table[name].combine_chunks().cast(RECORD.field(name).type)
        values = pa.array([labels[row][name] for row in sorted(labels)], column.type)
        table = replaced(table, name, pc.replace_with_mask(column, pa.array(mask), values))
    return table


def choose(
    before: Past,
    records: pa.Table,
    is_clean: Callable[[pa.Table], NDArray[np.bool_]] | None,
    how: Duplicates,
    reporter: Reporter,
) -> tuple[Past, pa.Table]:
    """Give new records their role and settle duplicates among all.

    is_clean: of all records, for a predicate may compare them; None where the best by rank are clean.
    """
    if is_clean is None:
        reporter.say("the clean set stays as it was: no new picture is clean")
        mask = pc.is_in(records["id"], value_set=before.clean_ids).to_numpy()
    else:
        found = _plain(before.rows.drop_columns(ANNOTATION.names))
        mask = is_clean(pa.concat_tables([found, _plain(records)], promote_options="permissive"))[len(found) :]
    records = replaced(records, "role", pa.array(np.where(mask, "clean", "pool"), pa.string()))
    light = before.rows.select(RECORD.names).cast(RECORD)
    both = settle_duplicates(pa.concat_tables([light, records.select(RECORD.names)]).unify_dictionaries(), how)
    settled, fresh = both.slice(0, len(light)), both.slice(len(light))
    for name in ("status", "reason", "role"):
        records = records.set_column(records.schema.get_field_index(name), RECORD.field(name), fresh[name])
    return replace(before, rows=_resettled(before.rows, settled)), records


def _resettled(rows: pa.Table, settled: pa.Table) -> pa.Table:
    """Old rows, of which a new clean picture has made some duplicates, or clean themselves."""
    status, role = (settled[name].cast(pa.string()) for name in ("status", "role"))
    gone = pc.and_(pc.equal(status, "duplicate"), pc.not_equal(rows["status"].cast(pa.string()), "duplicate"))
    clean = pc.and_(pc.equal(role, "clean"), pc.not_equal(rows["role"].cast(pa.string()), "clean"))
    for name in rows.column_names:
        column, value = rows[name], None
        if name in ("status", "reason", "role"):
            column = settled[name]
        elif name in ANNOTATION.names:
            column = column.cast(pa.string()) if name == "method" else column
            value = "clean" if name == "method" else 0.0 if name in THRESHOLDS else None
            if value is not None:
                column = pc.if_else(clean, pa.scalar(value, column.type), column)
            column = pc.if_else(gone, pa.scalar(None, column.type), column)
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def join(before: Past, rows: pa.Table) -> pa.Table:
    """Old and new rows, sorted by uri. New ones with one threshold for their source get the old one where there is."""
    old = _plain(before.rows)
    both = pa.concat_tables([old, _same_source(old, _plain(rows))], promote_options="permissive")
    return both.take(pc.sort_indices(both["uri"]))


def _same_source(old: pa.Table, new: pa.Table) -> pa.Table:
    if "method" not in new.column_names:
        return new
    known: dict[str, dict[str, Any]] = {}
    for row in old.filter(pc.equal(old["method"], "source")).select(["source", *THRESHOLDS]).to_pylist():
        known.setdefault(row["source"], row)
    methods, sources = new["method"].to_pylist(), new["source"].to_pylist()
    for name in THRESHOLDS:
        values = [
            known[source][name] if method == "source" and source in known else value
            for method, source, value in zip(methods, sources, new[name].to_pylist(), strict=True)
        ]
        new = new.set_column(new.schema.get_field_index(name), name, pa.array(values, pa.float32()))
    return new


def _plain(table: pa.Table) -> pa.Table:
    """With words instead of dictionaries, and no metadata, so that tables of other runs fit together."""
    kinds = [pa.string() if pa.types.is_dictionary(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))
