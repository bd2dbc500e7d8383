"""``ambient score``: score columns for a pool or for the rows of a manifest, in parts that survive a kill.

Scoring never filters: a picture that a measure cannot judge has no value there, and every row stays.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from .. import __version__
from ..schemas.errors import UserError
from ..schemas.scored import SCORED_KEY, Scored
from . import digests, duplicates
from .columns import vectors
from .device import choose_device
from .images import U8, Unusable, decode, unusable
from .known import is_known, read_about, with_column, with_near_duplicates
from .manifest import Work, is_finished, write_table
from .networks import Networks, ScoreConfig, load_networks
from .parallel import map_in_order
from .pool import Found, content_id, find, settle_duplicates
from .reading import collect, usable
from .reference import roots_of
from .remote import is_remote
from .reporter import Advance, Reporter
from .scorers import measure_all
from .scores import SCORES, score
from .uris import Roots, encoded, read_bytes, relocated, split_uri
from .weights import given

ROWS_PER_PART = 1024

Values = dict[str, Any]


def score_target(
    target: Path,
    out: Path,
    config: ScoreConfig,
    *,
    device: str = "auto",
    workers: int = 4,
    roots: dict[str, str] | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write `out`: of a pool a table of records and scores; of a manifest or such a table the same with more scores.

    Whatever else a manifest holds, its metadata too, stays as it is; a score that it has already is measured anew. The
    same command continues a run that was stopped; after a change of the manifest it is another run.
    roots: where roots of a manifest lie now. Raises UserError when the target or a root of it cannot be read, it has
    no such root, weights are missing, or `out` is another run's.
    """
    reporter, place = reporter or Reporter(), choose_device(device)
    asked = _open(target, config, roots or {})
    contents = {name: digests.of_file(Path(given(name, file))) for name, file in config.weights.items()}
    copied = None if asked.found or _is_same(out, target) else digests.of_file(target)
    run = digests.of_json([asdict(config), contents, asked.roots, asked.rows, copied, __version__])
    if is_finished(out, run, SCORED_KEY, overwrite=overwrite, reporter=reporter):
        if asked.found:
            reporter.say("pictures that were changed since are scored again with --overwrite")
        return out
    if asked.table is not None:
        _check_there(asked.table, asked.roots)
    networks = load_networks(config, place)  # before hours of reading, since weights may be missing
    with Work(out, run) as work:
        table, names = asked.table, list(config.by)
        if asked.found:
            records = collect(asked.found, asked.roots, work, workers, reporter)
            table, names = settle_duplicates(usable(records), "mark"), [name for name in names if name not in SCORES]
        table = add_scores(table, names, networks, asked.roots, work, device=place, workers=workers, reporter=reporter)
        by = ["--by", ",".join(config.by)] if config.by else []
        scored = Scored(
            run=run,
            roots=asked.roots,
            command=shlex.join(["ambient", "score", str(target), *by, "-o", str(out)]),
            package_version=__version__,
            settings=asdict(config),
        )
        write_table(out, table.replace_schema_metadata({**asked.kept, SCORED_KEY: scored.to_bytes()}))
    reporter.say(f"written: {len(table):,} rows to {out}")
    return out


def plan(target: Path, config: ScoreConfig, *, roots: dict[str, str] | None = None) -> dict[str, Any]:
    """What ``score_target`` would do, for --dry-run, from names of files or the rows of a manifest alone."""
    asked = _open(target, config, roots or {})
    if asked.found:
        pictures, scores = len(asked.found.candidates), [*SCORES, *config.by]
    else:
        assert asked.table is not None  # it is one or the other
        pictures, scores = pc.sum(pc.equal(asked.table["status"], "ok")).as_py() or 0, list(config.by)
    return {**asdict(config), "target": str(target), "scores": list(dict.fromkeys(scores)), "pictures": pictures}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """roots: where pictures lie. rows: what scores depend on, as JSON. found: of a pool. table: of a manifest, with the
    file metadata to keep."""

    roots: Roots
    rows: Any
    found: Found | None = None
    table: pa.Table | None = None
    kept: dict[bytes, bytes] = field(default_factory=dict)


def _open(target: Path, config: ScoreConfig, moved: Roots) -> _Asked:
    if is_known(target):
        if not config.by:
            raise UserError("--by names the scores to add, such as --by clipiqa,noise")
        kept, roots = read_about(target)
        table = pq.read_table(target)
        rows = [table[name].to_pylist() for name in ("uri", "id", "status", "caption")]
        return _Asked(roots=relocated(roots, moved, str(target)), rows=rows, table=table, kept=kept)
    roots = roots_of(target)
    if moved:
        raise UserError(f"{target} is a pool, and --root is for a manifest whose pool has moved: name the place itself")
    found = find(roots)
    if not found.candidates:
        raise UserError(f"there is no picture in {target}")
    return _Asked(roots=roots, rows=found.candidates.digest(), found=found)


def _is_same(out: Path, target: Path) -> bool:
    """Whether a manifest is scored in place: then its content does not tell the run, which changes it."""
    return out.resolve() == target.resolve()


def _check_there(table: pa.Table, roots: Roots) -> None:
    """Raise UserError where a root is gone, and so are its pictures: those of a list may lie elsewhere."""
    gone = {path: name for name, path in roots.items() if not is_remote(path) and not Path(path).exists()}
    uris = table.filter(pc.equal(table["status"].cast(pa.string()), "ok"))["uri"].to_pylist() if gone else []
    for path, name in gone.items():
        uri = next((uri for uri in uris if split_uri(uri, roots)[0] == path), None)
        if uri is None:
            continue
        try:
            read_bytes(uri, roots, 1)
        except Exception as error:
            raise UserError(
                f"{path} is gone ({uri!r} is in it): say where it is now with `--root {name}=/new/place`"
            ) from error


def add_scores(
    table: pa.Table,
    by: list[str],
    networks: Networks,
    roots: Roots,
    work: Work,
    *,
    device: torch.device,
    workers: int,
    reporter: Reporter,
) -> pa.Table:
    """The table with a column for each of these measures, replaced where there is one of that name.

    networks: those that are not built in, from ``load_networks``. Only rows with status ``ok`` are read; the others,
    pictures that a measure cannot judge, and files that have other content than their id says, have null.
    """
    names = list(dict.fromkeys("phash" if name in duplicates.NAMES else name for name in by))
    if not names:
        return table
    rows = np.flatnonzero(np.array(table["status"].to_pylist()) == "ok")
    uris, parts = table["uri"].to_pylist(), []
    with reporter.track(f"scoring by {', '.join(names)}", len(rows)) as advance:
        for number, start in enumerate(range(0, len(rows), ROWS_PER_PART)):
            path, mine = work.part("scores", number), rows[start : start + ROWS_PER_PART]
            if path.exists():
                advance(len(mine))
            else:
                part = table.select(["uri", "id", "caption"]).take(pa.array(mine))
                write_table(path, _score_part(part, names, networks, roots, device, workers, advance, reporter))
            parts.append(pq.read_table(path))
    kinds = {**{name: networks.kind(name) for name in names}, "problem": pa.string()}
    found = pa.concat_tables(parts) if parts else pa.table({name: pa.nulls(0, kind) for name, kind in kinds.items()})
    problems = found["problem"].combine_chunks()
    for name in names:
        column = found[name].combine_chunks()
        _say_unknown(name, column, [uris[row] for row in rows.tolist()], problems, reporter)
        index = np.full(len(table), -1)
        index[rows] = np.arange(len(rows))
        table = with_column(table, name, column.take(pa.array(index, mask=index < 0)))
    if "phash" in names:
        table = with_near_duplicates(table, duplicates.near_duplicates(table["phash"]))
    return table


def _score_part(
    part: pa.Table,
    names: list[str],
    networks: Networks,
    roots: Roots,
    device: torch.device,
    workers: int,
    advance: Advance,
    reporter: Reporter,
) -> pa.Table:
    """Columns `names` for these pictures (uri, id, caption), null where there is no value, and why none can be read."""
    wanted = list(zip(part["uri"].to_pylist(), part["id"].to_pylist(), strict=True))
    values: dict[str, list[Any]] = {name: [None] * len(wanted) for name in names}
    reasons: list[str | None] = [None] * len(wanted)

    def look(picture: tuple[str, str]) -> tuple[Values, dict[str, list[U8]], str | None]:
        """Everything that a thread can do with a picture: built-in values, and the pieces for each network."""
        try:
            with encoded(picture[0], roots) as data:
                if content_id(data) != picture[1]:
                    raise Unusable("unreadable", "its content is not what it was")
                pixels = decode(data).pixels
                done: Values = score(pixels) if set(names) & set(SCORES) else {}
                if "phash" in names:
                    done["phash"] = duplicates.phash(pixels)
                return done, {scorer.name: scorer.cut(pixels) for scorer in networks.scorers}, None
        except Exception as error:  # noqa: BLE001 (any file may fail in any way: it has no scores, and the run goes on)
            return {}, {}, unusable(error).reason

    def pieces() -> Iterator[tuple[int, dict[str, list[U8]]]]:
        for row, (done, cuts, reasons[row]) in enumerate(map_in_order(look, wanted, workers=workers)):
            for name in set(names) & set(done):
                values[name][row] = done[name]
            yield row, cuts
            advance(1)

    found, problems = measure_all(pieces(), networks.scorers, len(wanted), device)
    for name, problem in problems.items():
        reporter.warn(f"{name} failed on some pictures: {problem}")
    if "clipscore" in names and networks.embedder:
        found["clipscore"] = networks.embedder.scores(found["clip_embedding"], part["caption"].to_pylist())
    columns = {name: pa.array(values[name], networks.kind(name)) for name in names if name not in found}
    for name, means in found.items():
        missing = ~np.isfinite(means)
        columns[name] = pa.array(means, pa.float32(), mask=missing) if means.ndim == 1 else vectors(means)
    return pa.table({**{name: columns[name] for name in names}, "problem": pa.array(reasons, pa.string())})


def _say_unknown(name: str, column: pa.Array, uris: list[str], problems: pa.Array, reporter: Reporter) -> None:
    """problems: why pictures cannot be read; one that can, but not be judged, is named where there is no other."""
    missing = np.flatnonzero(~np.array(column.is_valid()))
    if len(missing):
        unread = missing[np.array(problems.is_valid())[missing]]
        first = int((unread if len(unread) else missing)[0])
        why = f": {problems[first]}" if len(unread) else ""
        reporter.warn(f"{len(missing):,} of {len(column):,} pictures have no {name}, such as {uris[first]!r}{why}")
