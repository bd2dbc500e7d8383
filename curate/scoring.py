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
from .images import U8, decode
from .known import is_known, read_about, with_column
from .manifest import Work, is_finished, write_table
from .networks import Networks, ScoreConfig, load_networks
from .parallel import map_in_order
from .pool import Found, find, settle_duplicates
from .reading import collect, usable
from .reference import roots_of
from .reporter import Advance, Reporter
from .scorers import measure_all
from .scores import SCORES, score
from .uris import Roots, read_bytes
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
    same command continues a run that was stopped. roots: where roots of a manifest lie now.
    Raises UserError when the target cannot be read, weights are missing, or `out` is another run's.
    """
    reporter, place = reporter or Reporter(), choose_device(device)
    asked = _open(target, config, roots or {})
    contents = {name: digests.of_file(Path(given(name, file))) for name, file in config.weights.items()}
    run = digests.of_json([asdict(config), contents, asked.roots, asked.rows, __version__])
    if is_finished(out, run, SCORED_KEY, overwrite=overwrite, reporter=reporter):
        return out
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
    """roots: where pictures lie. rows: what tells them from other pictures, as JSON. found: of a pool. table: of a
    manifest, with the file metadata to keep."""

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
        rows = [table[name].to_pylist() for name in ("uri", "id")]
        return _Asked(roots=roots | moved, rows=rows, table=table, kept=kept)
    roots = roots_of(target)
    found = find(roots)
    if not found.candidates:
        raise UserError(f"there is no picture in {target}")
    return _Asked(roots=roots, rows=found.candidates.digest(), found=found)


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
    and pictures that a measure cannot judge, have null.
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
                part = pa.table({"uri": table["uri"].take(mine), "caption": table["caption"].take(mine)})
                write_table(path, _score_part(part, names, networks, roots, device, workers, advance, reporter))
            parts.append(pq.read_table(path))
    found = pa.concat_tables(parts) if parts else pa.table({name: pa.nulls(0, networks.kind(name)) for name in names})
    for name in names:
        column = found[name].combine_chunks()
        _say_unknown(name, column, [uris[row] for row in rows.tolist()], reporter)
        index = np.full(len(table), -1)
        index[rows] = np.arange(len(rows))
        table = with_column(table, name, column.take(pa.array(index, mask=index < 0)))
    if "phash" in names:
        first = duplicates.near_duplicates(table["phash"])
        table = with_column(
            table, "near_duplicate_of", table["uri"].cast(pa.string()).take(pa.array(first, mask=first < 0))
        )
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
    """Columns `names` for these pictures (uri, caption), null where there is no value."""
    uris = part["uri"].to_pylist()
    values: dict[str, list[Any]] = {name: [None] * len(uris) for name in names}

    def look(uri: str) -> tuple[Values, dict[str, list[U8]]]:
        """Everything that a thread can do with a picture: built-in values, and the pieces for each network."""
        try:
            pixels = decode(read_bytes(uri, roots)).pixels
            done: Values = score(pixels) if set(names) & set(SCORES) else {}
            if "phash" in names:
                done["phash"] = duplicates.phash(pixels)
            return done, {scorer.name: scorer.cut(pixels) for scorer in networks.scorers}
        except Exception:  # noqa: BLE001 (any file may fail in any way: it has no scores, and the run goes on)
            return {}, {}

    def pieces() -> Iterator[tuple[int, dict[str, list[U8]]]]:
        for row, (done, cuts) in enumerate(map_in_order(look, uris, workers=workers)):
            for name in set(names) & set(done):
                values[name][row] = done[name]
            yield row, cuts
            advance(1)

    found, problems = measure_all(pieces(), networks.scorers, len(uris), device)
    for name, problem in problems.items():
        reporter.warn(f"{name} failed on some pictures: {problem}")
    if "clipscore" in names and networks.embedder:
        found["clipscore"] = networks.embedder.scores(found["clip_embedding"], part["caption"].to_pylist())
    columns = {name: pa.array(values[name], networks.kind(name)) for name in names if name not in found}
    for name, means in found.items():
        missing = ~np.isfinite(means)
        columns[name] = pa.array(means, pa.float32(), mask=missing) if means.ndim == 1 else vectors(means)
    return pa.table({name: columns[name] for name in names})


def _say_unknown(name: str, column: pa.Array, uris: list[str], reporter: Reporter) -> None:
    missing = np.flatnonzero(~np.array(column.is_valid()))
    if len(missing):
        reporter.warn(f"{len(missing):,} of {len(column):,} pictures have no {name}; the first is {uris[missing[0]]!r}")
