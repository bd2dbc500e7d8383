"""``ambient score``: score columns for a pool or for the rows of a manifest, in parts that survive a kill.

Scoring never filters: a picture that a measure cannot judge has no value there, and every row stays.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from .. import __version__
from ..schemas.errors import UserError
from ..schemas.manifest import ANNOTATION, METADATA_KEY, ROW_GROUP_SIZE, read_metadata, score_fields
from ..schemas.scored import SCORED_KEY, Scored, read_scored
from . import clip, clipscore, duplicates, iqa
from .clipscore import Embedder
from .columns import vectors
from .device import choose_device
from .images import U8, decode
from .manifest import Work, digest, sweep, write_table
from .openclip import ClipConfig
from .parallel import map_in_order
from .pool import Found, find, scan, settle_duplicates, to_table
from .reference import roots_of
from .reporter import Advance, Reporter
from .scorers import Scorer, measure_all
from .scores import SCORES, score
from .uris import Roots, read_bytes
from .whole import replacing

ROWS_PER_PART = 1024
RECORDS_PER_PART = 4096

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """by: names of measures; the built-in ones need not be named for a pool, which always has them.

    weights: measure -> local copy of its weights; ``clipiqa`` names those of all its patch sizes, either of
    ``clipscore`` and ``clip_embedding`` those of both.
    """

    by: tuple[str, ...] = ()
    clip: ClipConfig = field(default_factory=ClipConfig)
    weights: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.by:
            _check_name(name)
        if unused := set(self.weights) - {clip.NAMES[0] if n in clip.NAMES else n for n in self.by}:
            raise UserError(f"--weights {sorted(unused)[0]}=FILE: --by does not name this measure")
        if len({self.weights[name] for name in clipscore.NAMES if name in self.weights}) > 1:
            raise UserError("clipscore and clip_embedding are by one network: name its weights once")

    @property
    def by_network(self) -> tuple[str, ...]:
        return tuple(name for name in self.by if name not in SCORES and name not in duplicates.NAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """The measures of a configuration that are not built in.

    embedder: the network of ``clip_embedding``, if that is among them, which also tells how well captions fit.
    """

    scorers: list[Scorer]
    embedder: Embedder | None = None

    def kind(self, name: str) -> pa.DataType:
        """Type of the column of a measure, built in or not."""
        if name == "clip_embedding" and self.embedder:
            return pa.list_(pa.float32(), self.embedder.size)
        return pa.string() if name in duplicates.NAMES else pa.float32()


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
    """Write `out`: of a pool a table of records and scores; of a manifest (.parquet) the same with scores added.

    Whatever else a manifest holds, its metadata too, stays as it is; a score that it has already is measured anew. The
    same command continues a run that was stopped. roots: where roots of a manifest lie now.
    Raises UserError when the target cannot be read, weights are missing, or `out` is another run's.
    """
    reporter, place = reporter or Reporter(), choose_device(device)
    if target.suffix != ".parquet":
        if not target.exists():
            raise UserError(f"there is no pool or manifest at {target}: name a folder, a .zip or a .parquet")
        kept: dict[bytes, bytes] = {}
        where = roots_of(target, None)
        found = find(where)
        if not found.candidates:
            raise UserError(f"there is no picture in {target}")
        rows: Any = found.candidates.digest()
    else:
        if not config.by:
            raise UserError("--by names the scores to add, such as --by clipiqa,noise")
        kept, known = _read(target)
        where, table = known | (roots or {}), pq.read_table(target)
        rows = [table["uri"].to_pylist(), table["id"].to_pylist()]
    run = digest([asdict(config), where, rows, __version__])
    if _finished(out, run, overwrite):
        reporter.say(f"{out} is finished: the same command wrote it; nothing to do")
        sweep(out, run)
        return out
    networks = load_networks(config, place)  # before hours of reading, since weights may be missing
    with Work(out, run) as work:
        if target.suffix != ".parquet":
            table = settle_duplicates(usable(collect(found, where, work, workers, reporter)), "mark")
        have = () if target.suffix == ".parquet" else tuple(SCORES)
        names = [name for name in config.by if name not in have]
        table = add_scores(table, names, networks, where, work, device=place, workers=workers, reporter=reporter)
        by = [] if not config.by else ["--by", ",".join(config.by)]
        command = shlex.join(["ambient", "score", str(target), *by, "-o", str(out)])
        scored = Scored(run=run, roots=where, command=command, package_version=__version__, settings=asdict(config))
        _write(out, table.replace_schema_metadata({**kept, SCORED_KEY: scored.to_bytes()}))
    return out


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
        table = _with_column(table, name, column.take(pa.array(index, mask=index < 0)))
    if "phash" in names:
        first = duplicates.near_duplicates(table["phash"])
        table = _with_column(
            table, "near_duplicate_of", table["uri"].cast(pa.string()).take(pa.array(first, mask=first < 0))
        )
    return table


def join_scores(records: pa.Table, path: Path) -> pa.Table:
    """The records with the score columns of another table that they do not have, matched by content id.

    path: a manifest or what `ambient score` wrote. Raises UserError where it is neither, or no picture is in both.
    """
    names = score_names(path)
    other = pq.read_table(path, columns=["id", "status", *names])
    other = other.filter(pc.equal(other["status"].cast(pa.string()), "ok"))
    place = pc.index_in(records["id"], value_set=other["id"].combine_chunks())
    if place.null_count == len(place):
        raise UserError(f"{path} has scores of other pictures: none of its ids is in this pool")
    for name in names:
        if name not in records.column_names:
            records = _with_column(records, name, other[name].take(place))
    return records


def score_names(path: Path) -> list[str]:
    """The score columns of a manifest or of what `ambient score` wrote. Raises UserError where it is neither."""
    _read(path)
    return [column.name for column in score_fields(pq.read_schema(path)) if _is_score(column)]


def _is_score(column: pa.Field) -> bool:
    embedding = pa.types.is_fixed_size_list(column.type) and column.type.value_type == pa.float32()
    return column.type == pa.float32() or embedding or column.name in duplicates.NAMES


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


def load_networks(config: ScoreConfig, device: torch.device) -> Networks:
    """The measures of a configuration that are not built in. Raises UserError where one cannot be set up."""
    clips = [name for name in config.by_network if name in clip.NAMES]
    embeds = [name for name in config.by_network if name in clipscore.NAMES]
    others = [name for name in config.by_network if name not in (*clips, *embeds)]

    def with_weights(*names: str) -> ClipConfig:
        given = [config.weights[name] for name in names if name in config.weights]
        return replace(config.clip, weights=given[0]) if given else config.clip

    scorers = [iqa.scorer(name, config.weights.get(name), device) for name in others]
    scorers += clip.scorers(clips, with_weights("clipiqa"), device) if clips else []
    embedder = Embedder(with_weights(*clipscore.NAMES), device, embeds[0]) if embeds else None
    return Networks(scorers=[*scorers, embedder.scorer()] if embedder else scorers, embedder=embedder)


def _check_name(name: str) -> None:
    if name in (*SCORES, *duplicates.NAMES, *clip.NAMES, *clipscore.NAMES):
        return
    if name not in iqa.names():
        own, others = ", ".join((*SCORES, "phash", *clip.NAMES, *clipscore.NAMES)), ", ".join(iqa.names())
        raise UserError(f"there is no measure {name!r}: there are {own}, and of pyiqa {others}")


def _with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The column replaced, or put before what annotation adds."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if name in table.column_names:
        return table.set_column(table.schema.get_field_index(name), name, values)
    after = [i for i, existing in enumerate(table.column_names) if existing in ANNOTATION.names]
    return table.add_column(min(after, default=table.num_columns), name, values)


def _say_unknown(name: str, column: pa.Array, uris: list[str], reporter: Reporter) -> None:
    missing = np.flatnonzero(~np.array(column.is_valid()))
    if len(missing):
        reporter.warn(f"{len(missing):,} of {len(column):,} pictures have no {name}; the first is {uris[missing[0]]!r}")


def _read(path: Path) -> tuple[dict[bytes, bytes], Roots]:
    """(schema metadata to keep, roots) of a manifest or of a table that an earlier run wrote."""
    if not path.is_file():
        raise UserError(f"there is no manifest at {path}")
    try:
        kept: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})") from error
    return kept, (read_metadata(path).roots if METADATA_KEY in kept else read_scored(path).roots)


def _finished(out: Path, run: str, overwrite: bool) -> bool:
    if not out.exists() or overwrite:
        return False
    schema = pq.read_schema(out) if out.is_file() else pa.schema([])
    if SCORED_KEY in (schema.metadata or {}) and read_scored(out).run == run:
        return True
    raise UserError(f"{out} was written by something else: choose another -o or add --overwrite")


def _write(path: Path, table: pa.Table) -> None:
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=ROW_GROUP_SIZE)
