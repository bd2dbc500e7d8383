"""Annotating a pool: records -> clean set -> classifier -> p_clean curves -> sigma_min -> manifest.

Every stage writes finished parts (curate/manifest.py), so the same command continues a run that was stopped.
"""

import math
import shlex
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..schemas.errors import UserError
from ..schemas.manifest import RECORD, THRESHOLDS, Metadata, manifest_schema, read_metadata
from ..schemas.space import Space
from .classifier import QualityClassifier, load_classifier, save_classifier
from .curves import search
from .device import choose_device
from .fit import HELD_OUT, MIN_ACCURACY, FitConfig, fit_classifier
from .images import Unusable, load_many, to_unit
from .manifest import Work, digest, replacing, write_manifest, write_table
from .noise import names_of
from .pool import Found, find, mark_duplicates, replaced
from .preview import write_preview
from .ranks import Top, agreement, best, ranks
from .reference import check_split, in_clean_dir, roots_of, where
from .reporter import Advance, Reporter
from .scores import COMBINED, SCORES
from .scoring import ScoreConfig, add_scores, collect, join_scores, load_networks, score_names
from .threshold import decide, decide_per_source, sigma_grid
from .uris import Roots

Rows = NDArray[Any]
CURVES = ("mean", "variance", "count")

CURVES_PER_PART = 512
_CHUNK = 64  # pictures annotated at a time: fixed, so that a picture's batch never depends on where a run stopped
_FIT_BYTES = 1 << 30  # of pictures that the classifier trains on


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotateConfig:
    """What decides the values in a manifest.

    clean: directory or archive of clean pictures; clean_where: SQL predicate over the records that picks them;
    clean_top: the best by rank, which is also what is done when nothing is said. scores: table whose score columns are
    added. resolution: None takes the largest power of two <= the median short side, at most 256. draws: noise draws
    per level, on average. per: one threshold per picture or per source. steps: of the classifier.
    """

    clean: Path | None = None
    clean_where: str | None = None
    clean_top: Top | None = None
    scores: Path | None = None
    resolution: int | None = None
    channels: int = 3
    epsilon: float = 0.05
    draws: int = 8
    per: Literal["picture", "source"] = "picture"
    steps: int = 1000
    seed: int = 0
    accept_indistinguishable: bool = False

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.clean, self.clean_where, self.clean_top)) > 1:
            raise UserError("--clean, --clean-where and --clean-top all say what is clean: give one of them")
        if not 0 < self.epsilon < 0.5:
            raise UserError(f"epsilon must lie between 0 and 0.5, not {self.epsilon}")
        if not 1 <= self.draws <= 4096:
            raise UserError(f"draws must lie between 1 and 4096, not {self.draws}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if self.per not in ("picture", "source"):
            raise UserError(f"--per is picture or source, not {self.per!r}")
        resolution = 8 if self.resolution is None else self.resolution
        Space(resolution=resolution, channels=self.channels)  # raises UserError now, not after reading

    def arguments(self) -> list[str]:
        """The command-line options that say the same, those left at their defaults left out."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Top):
                words += value.arguments()
            elif value != field.default:
                option = "--" + field.name.replace("_", "-")
                words += [option] if value is True else [option, str(value)]
        return words


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What every stage needs to know."""

    config: AnnotateConfig
    roots: Roots
    work: Work
    device: torch.device
    workers: int
    reporter: Reporter


def annotate(
    pool: Path,
    out: Path,
    config: AnnotateConfig,
    *,
    device: str = "auto",
    workers: int = 4,
    overwrite: bool = False,
    preview: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write the manifest of a pool to `out`; continue where an interrupted run of the same kind stopped.

    preview: also show a clean set chosen by rank in `out` with the suffix ``.clean.png``. Raises UserError when the
    pool or the clean set cannot be used, when the classifier cannot tell clean from other pictures (it must not fail
    open), or when `out` holds another run's manifest and overwrite is False.
    """
    reporter = reporter or Reporter()
    if preview and (config.clean or config.clean_where):
        raise UserError("--preview shows a choice by rank: leave out --clean and --clean-where")
    place = choose_device(device)
    roots = _roots(pool, config)
    found = find(roots)
    _say_found(found, pool, reporter)
    identity = _identity(found, roots, config)
    if _finished(out, identity, overwrite):
        reporter.say(f"{out} is finished: the same command wrote it; nothing to do")
        return out
    with Work(out, identity) as work:
        if work.discarded:
            reporter.say("the options or the pool have changed since the last run: starting again")
        run = _Run(config=config, roots=roots, work=work, device=place, workers=workers, reporter=reporter)
        sheet = out.with_suffix(".clean.png") if preview else None
        records, clean_set = _choose_clean(_collect(found, run), pool, sheet, run)
        space = _space(records, run)
        classifier, classifier_hash = _classifier(records, space, run)
        _curves(records, classifier, space, run)
        metadata = Metadata(
            space=space,
            roots=roots,
            fingerprint=digest(list(zip(records["uri"].to_pylist(), records["id"].to_pylist(), strict=True))),
            package_version=__version__,
            command=shlex.join(["ambient", "annotate", str(pool), "-o", str(out), *config.arguments()]),
            run=identity,
            sigma_grid=sigma_grid().tolist(),
            draws=config.draws,
            epsilon=config.epsilon,
            clean_set=clean_set,
            classifier=classifier_hash,
        )
        scores = [name for name in records.column_names if name not in RECORD.names]
        write_manifest(out, _annotated(records, run), manifest_schema(scores), metadata)
    return out


def plan(pool: Path, config: AnnotateConfig) -> dict[str, object]:
    """What ``annotate`` would do, for --dry-run, from the names of the files alone."""
    found = find(_roots(pool, config))
    return {
        **asdict(config),
        "clean": str(config.clean) if config.clean else None,
        "scores": str(config.scores) if config.scores else None,
        "pictures_found": len(found.candidates),
        "other_files": sum(found.others.values()),
        "noise_levels": len(sigma_grid()),
        "classifier_evaluations": len(found.candidates) * len(sigma_grid()) * config.draws,
    }


def _roots(pool: Path, config: AnnotateConfig) -> Roots:
    for path, what in ((pool, "pool"), (config.clean, "clean set")):
        if path is not None and not path.exists():
            raise UserError(f"there is no {what} at {path}: name a folder or a .zip of pictures")
    return roots_of(pool, config.clean)


def _identity(found: Found, roots: Roots, config: AnnotateConfig) -> str:
    options = {**asdict(config), "clean": str(config.clean), "scores": str(config.scores)}
    return digest([options, roots, [candidate.uri for candidate in found.candidates], __version__])


def _finished(out: Path, identity: str, overwrite: bool) -> bool:
    if not out.exists():
        return False
    if out.is_dir():
        raise UserError(f"{out} is a folder: name the file to write, such as -o {out / 'manifest.parquet'}")
    if overwrite:
        return False
    if read_metadata(out).run == identity:
        return True
    raise UserError(f"{out} was written with other options or for another pool: choose another -o or add --overwrite")


def _say_found(found: Found, pool: Path, reporter: Reporter) -> None:
    others = ", ".join(f"{count:,} {kind or 'without extension'}" for kind, count in found.others.items())
    if not found.candidates:
        raise UserError(f"there is no picture in {pool}" + (f"; other files: {others}" if others else ""))
    reporter.say(f"found {len(found.candidates):,} pictures in {pool}")
    if others:
        reporter.say(f"left out files that are not pictures: {others}")


def _collect(found: Found, run: _Run) -> pa.Table:
    """Stage 1: read every file once; identity, size, status, scores."""
    config, by = run.config, run.config.clean_top.by if run.config.clean_top else ()
    known = {*SCORES, *(score_names(config.scores) if config.scores else ())}
    more = tuple(name for name in by if name.removeprefix("-") not in known)
    networks = load_networks(ScoreConfig(by=more), run.device)
    records = collect(found, run.roots, run.work, run.workers, run.reporter)
    if config.scores is not None:
        records = join_scores(records, config.scores)
    return add_scores(
        records,
        list(more),
        networks,
        run.roots,
        run.work,
        device=run.device,
        workers=run.workers,
        reporter=run.reporter,
    )


def _choose_clean(records: pa.Table, pool: Path, sheet: Path | None, run: _Run) -> tuple[pa.Table, str]:
    """Stage 2: who is clean, and by what; then duplicates, among which a clean picture wins."""
    config = run.config
    if config.clean is not None:
        mask, how = in_clean_dir(records, pool, config.clean, run.roots), f"--clean {config.clean}"
    elif config.clean_where is not None:
        mask, how = where(records, config.clean_where), f"--clean-where {config.clean_where!r}"
    else:
        top = config.clean_top or Top()
        mask, how = best(records, top), str(top)
        _say_agreement(records, top, run.reporter)
        if sheet:
            write_preview(sheet, records, mask, ranks(records, top.by, top.within), run.roots, workers=run.workers)
            run.reporter.say(f"the best, the worst and the border: {sheet}")
    roles = pa.array(np.where(mask, "clean", "pool"), pa.string()).dictionary_encode()
    records = mark_duplicates(records.set_column(records.schema.get_field_index("role"), RECORD.field("role"), roles))
    ok, clean = _is(records, "status", "ok"), _is(records, "role", "clean")
    check_split(int((ok & clean).sum()), int((ok & ~clean).sum()), how)
    run.reporter.say(f"clean set: {(ok & clean).sum():,} of {ok.sum():,} usable pictures, by {how}")
    unusable = pc.value_counts(records.filter(pa.array(~ok))["status"].cast(pa.string())).to_pylist()
    if unusable:
        run.reporter.say("not usable: " + ", ".join(f"{u['counts']:,} {u['values']}" for u in unusable))
    return records, how


def _say_agreement(records: pa.Table, top: Top, reporter: Reporter) -> None:
    """How alike the measures rank the pool; of the built-in combination alone, what it combines."""
    by = (*top.by, *COMBINED) if top.by == ("undamaged",) else top.by
    pairs = agreement(records, by)
    if top.by == ("undamaged",):
        pairs = {pair: value for pair, value in pairs.items() if "undamaged" in pair}
    if pairs:
        shown = ", ".join(f"{first} and {second} {value:.2f}" for (first, second), value in pairs.items())
        reporter.say(f"agreement of the measures (Spearman's rank correlation): {shown}")


def _space(records: pa.Table, run: _Run) -> Space:
    """The space asked for, or the one that fits the usable pictures."""
    resolution = run.config.resolution
    if resolution is None:
        ok = records.filter(pa.array(_is(records, "status", "ok")))
        short = float(np.median(np.minimum(ok["width"].to_numpy(), ok["height"].to_numpy())))
        resolution = 2 ** int(math.log2(min(256.0, short)))
        run.reporter.say(f"resolution {resolution}: the largest power of two <= the median short side ({short:g})")
    return Space(resolution=resolution, channels=run.config.channels)


def _classifier(records: pa.Table, space: Space, run: _Run) -> tuple[QualityClassifier, str]:
    """Stage 3: train the classifier, or take the one that an interrupted run had finished."""
    path = run.work.folder / "classifier.safetensors"
    if not path.exists():
        held_clean, clean = _sample(records, "clean", space, run)
        held_other, other = _sample(records, "pool", space, run)
        config = FitConfig(steps=run.config.steps, seed=run.config.seed)
        with run.reporter.track("training the classifier", config.steps, "steps") as advance:
            fit = fit_classifier(clean, other, held_clean, held_other, space=space, config=config, progress=advance)
        run.reporter.say(
            f"on held-out pictures: balanced accuracy {fit.accuracy:.3f} at sigma {config.lowest:g}, "
            f"cross-entropy {fit.held_out_loss:.3f} nats over all levels"
        )
        must_distinguish(fit.accuracy, config.lowest, run)
        with replacing(path) as partial:
            save_classifier(partial, fit.classifier)
    classifier, content_hash = load_classifier(path)
    return classifier.to(run.device), content_hash


def must_distinguish(accuracy: float, sigma: float, run: _Run) -> None:
    """Do not fail open: a classifier that learned nothing says 0.5 everywhere, which would make every picture clean."""
    if accuracy >= MIN_ACCURACY:
        return
    problem = (
        f"the classifier cannot tell clean pictures from the others: balanced accuracy {accuracy:.3f} on held-out "
        f"pictures at sigma {sigma:g}, below {MIN_ACCURACY}"
    )
    if not run.config.accept_indistinguishable:
        raise UserError(
            f"{problem}; its thresholds would call everything clean. Check the clean set, add pictures or --steps, or "
            "pass --accept-indistinguishable if the pool really is as good as the clean set"
        )
    run.reporter.warn(f"{problem}; going on, as asked: do not trust these thresholds")


def _sample(records: pa.Table, role: str, space: Space, run: _Run) -> tuple[Tensor, Tensor]:
    """Held-out and training pictures (uint8) of one set: a sample, in the order of ids, where there are too many."""
    mine = records.filter(pa.array(_is(records, "status", "ok") & _is(records, "role", role)))
    limit = max(100, _FIT_BYTES // math.prod(space.shape))
    uris = mine["uri"].take(pc.sort_indices(mine["id"])[:limit]).to_pylist()
    loaded = [p for _, p in load_many(uris, space, run.roots, workers=run.workers) if not isinstance(p, Unusable)]
    if len(loaded) < 2:
        raise UserError("the pictures were readable a moment ago and are not any more: is the pool being changed?")
    pictures = torch.from_numpy(np.stack(loaded)).to(run.device)
    held = min(max(1, round(HELD_OUT * len(pictures))), len(pictures) - 1)
    return pictures[:held], pictures[held:]


def _curves(records: pa.Table, classifier: QualityClassifier, space: Space, run: _Run) -> None:
    """Stage 4: p_clean and the picture's own threshold, for every usable row, in parts."""
    ok = np.flatnonzero(_is(records, "status", "ok"))
    with run.reporter.track("annotating", len(ok)) as advance:
        for number, start in enumerate(range(0, len(ok), CURVES_PER_PART)):
            path, rows = run.work.part("curves", number), ok[start : start + CURVES_PER_PART]
            if path.exists():
                advance(len(rows))
            else:
                write_table(path, _curve_part(records.take(pa.array(rows)), rows, classifier, space, run, advance))


def _curve_part(
    part: pa.Table, rows: Rows, classifier: QualityClassifier, space: Space, run: _Run, advance: Advance
) -> pa.Table:
    """Columns row, p_clean, draws, sigma_min, sigma_min_lo, sigma_min_hi and problem (of a picture that is gone)."""
    config, grid = run.config, sigma_grid()
    ids, problems, found = part["id"].to_pylist(), [], []
    pictures = load_many(part["uri"].to_pylist(), space, run.roots, workers=run.workers)
    while chunk := list(islice(pictures, _CHUNK)):
        problems += [p.reason if isinstance(p, Unusable) else None for _, p in chunk]
        good = [(ids[i], p) for i, p in chunk if not isinstance(p, Unusable)]
        if good:
            x = to_unit(torch.from_numpy(np.stack([p for _, p in good])).to(run.device))
            names = names_of([content_id for content_id, _ in good], run.device)
            tau = 0.5 - config.epsilon
            found.append(search(classifier, x, names, grid, draws=config.draws, tau=tau, seed=config.seed))
        advance(len(chunk))
    usable = np.array([problem is None for problem in problems])
    none = np.zeros((0, len(grid)))
    mean, variance, count = (np.concatenate([none, *(getattr(c, name) for c in found)]) for name in CURVES)
    columns = {
        "row": pa.array(rows),
        "problem": pa.array(problems, pa.string()),
        "p_clean": _spread(_lists(mean, pa.float32()), usable),
        "draws": _spread(_lists(count, pa.int32()), usable),
    }
    for name, values in zip(THRESHOLDS, decide(mean, variance, count, grid, config.epsilon), strict=True):
        columns[name] = _spread(pa.array(values, pa.float32()), usable)
    return pa.table(columns)


def _annotated(records: pa.Table, run: _Run) -> pa.Table:
    """Stage 5: records with their thresholds, the columns of a manifest."""
    curves = pa.concat_tables(pq.read_table(path) for path in sorted(run.work.folder.glob("curves-*.parquet")))
    at = np.full(len(records), -1)
    at[curves["row"].to_numpy()] = np.arange(len(curves))
    curves = curves.take(pa.array(at, mask=at < 0))
    status = pc.if_else(pc.is_valid(curves["problem"]), "unreadable", records["status"].cast(pa.string()))
    records = replaced(records, "status", status)
    records = replaced(records, "reason", pc.coalesce(curves["problem"], records["reason"]))
    ok, clean = _is(records, "status", "ok"), _is(records, "role", "clean")
    thresholds = {name: curves[name].to_numpy().copy() for name in THRESHOLDS}
    if run.config.per == "source":
        _share_per_source(thresholds, curves["p_clean"], records["source"], ok & ~clean, run.config.epsilon)
    for name, values in thresholds.items():
        values[clean] = 0.0
        curves = replaced(curves, name, pa.array(values, pa.float32(), mask=~ok))
    method = np.where(clean, "clean", "source" if run.config.per == "source" else "classifier")
    _say_thresholds(thresholds["sigma_min"][ok & ~clean], run.reporter)
    for name, column in (
        ("p_clean", curves["p_clean"]),
        ("draws", curves["draws"]),
        *((name, curves[name]) for name in THRESHOLDS),
        ("sigma_max", pa.array(np.zeros(len(ok)), pa.float32(), mask=~ok)),
        ("method", pa.array(method, pa.string(), mask=~ok)),
    ):
        records = records.append_column(name, column)
    return records


def _share_per_source(
    thresholds: dict[str, Rows], curves: pa.ChunkedArray, sources: pa.ChunkedArray, use: Rows, epsilon: float
) -> None:
    """Give every picture in `use` the threshold of its source's mean curve (eq. 3.2)."""
    names = np.array(sources.cast(pa.string()).to_pylist())
    stacked = np.array(curves.filter(pa.array(use)).to_pylist())
    for source, values in decide_per_source(stacked, names[use].tolist(), sigma_grid(), epsilon).items():
        for name, value in zip(THRESHOLDS, values, strict=True):
            thresholds[name][use & (names == source)] = value


def _say_thresholds(sigma_min: Rows, reporter: Reporter) -> None:
    if len(sigma_min) == 0:
        reporter.warn("no picture is left to annotate: all that are usable are clean")
        return
    never, everywhere = int(np.isinf(sigma_min).sum()), int((sigma_min == 0).sum())
    reporter.say(f"sigma_min of {len(sigma_min):,} pictures that are not clean: median {np.median(sigma_min):.3g}")
    if everywhere:
        reporter.say(f"{everywhere:,} of them look clean at every noise level: sigma_min = 0")
    if never:
        reporter.warn(f"{never:,} of them look wrong at every noise level: sigma_min = inf, never used in training")


def _lists(values: Rows, kind: pa.DataType) -> pa.Array:
    """(N, L) numbers as N lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()).cast(kind, safe=False))


def _spread(values: pa.Array, mask: Rows) -> pa.Array:
    """Values at the places where mask holds, null elsewhere."""
    return values.take(pa.array(np.cumsum(mask) - 1, mask=~mask))


def _is(table: pa.Table, column: str, value: str) -> Rows:
    """(N,) bool: where a column of words holds this one."""
    mask: Rows = pc.equal(table[column].cast(pa.string()), value).to_numpy()
    return mask
