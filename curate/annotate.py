"""Annotating a pool: records -> clean set -> classifier -> p_clean curves -> sigma_min -> manifest.

Every stage writes finished parts (curate/manifest.py), so the same command continues a run that was stopped.
"""

import math
import shlex
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from .. import __version__
from ..schemas.errors import UserError
from ..schemas.manifest import METADATA_KEY, THRESHOLDS, Metadata, manifest_schema, score_fields
from ..schemas.space import Space
from . import digests
from .columns import Rows, is_, matrix
from .config import AnnotateConfig
from .crossfit import CrossFitted, load_classifier
from .decide import Rule, settle
from .device import choose_device, fast_matmul
from .known import join_scores, score_names
from .learn import CLASSIFIER, trained
from .manifest import Work, fingerprint, is_finished, write_manifest
from .measure import follow, measure
from .networks import ScoreConfig, load_networks
from .pool import Found, find, replaced, settle_duplicates
from .preview import write_preview
from .ranks import Top, agreement, best, ranks
from .reading import collect, usable
from .reference import check_split, in_clean_dir, roots_of, where
from .reporter import Reporter
from .run import Run
from .scores import COMBINED, SCORES
from .scoring import add_scores
from .team import Team, joined
from .threshold import draw_noise, sigma_grid
from .update import Past, choose, classifier_beside, join, past
from .uris import Roots
from .whole import replacing


def annotate(
    pool: Path,
    out: Path,
    config: AnnotateConfig,
    *,
    device: str = "auto",
    workers: int = 4,
    overwrite: bool = False,
    update: bool = False,
    preview: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write the manifest of a pool to `out`; continue where an interrupted run of the same kind stopped.

    update: add what is new or changed to the manifest that is there. The classifier is kept beside the manifest.
    preview: also show a clean set chosen by rank in `out` with the suffix ``.clean.png``. Raises UserError when the
    pool or the clean set cannot be used, when the classifier cannot tell clean from other pictures (it must not fail
    open), or when `out` holds another run's manifest and overwrite is False.
    """
    reporter = reporter or Reporter()
    if preview and (config.clean or config.clean_where):
        raise UserError("--preview shows a choice by rank: leave out --clean and --clean-where")
    with joined() as team:
        place, workers = team.device(choose_device(device)), -(-workers // team.size)
        with fast_matmul(place):
            if team.rank > 0:
                follow(out, config, team=team, device=place, workers=workers)
            else:
                _lead(pool, out, config, team, place, workers, overwrite, update, preview, reporter)
                team.tell(None)
    return out


def _lead(
    pool: Path,
    out: Path,
    config: AnnotateConfig,
    team: Team,
    place: torch.device,
    workers: int,
    overwrite: bool,
    update: bool,
    preview: bool,
    reporter: Reporter,
) -> None:
    """What one process does, or the first of several."""
    roots = roots_of(pool, config.clean)
    found = find(roots)
    _say_found(found, pool, reporter)
    identity, options = _identity(found, roots, config), _options(config)
    before = past(out, found, roots, options, workers=workers, reporter=reporter) if update else None
    if before is None and is_finished(out, identity, METADATA_KEY, overwrite=overwrite, reporter=reporter):
        return
    work_id = identity
    if before:
        work_id = digests.of_json([identity, before.metadata.fingerprint, before.fresh.candidates.digest()])
    with Work(out, work_id) as work:
        if work.discarded:
            reporter.say("the options or the pool have changed since the last run: starting again")
        run = Run(config=config, roots=roots, work=work, device=place, workers=workers, reporter=reporter, team=team)
        if before:
            _update(before, out, pool, identity, run)
            return
        sheet = out.with_suffix(".clean.png") if preview else None
        records, clean_set = _choose_clean(usable(_collect(found, run)), pool, sheet, run)
        space = _space(records, run)
        classifier, classifier_hash = trained(records, space, run)
        measure(records, classifier, space, run)
        rows, noise = _annotated(records, classifier, run)
        metadata = Metadata(
            space=space,
            roots=roots,
            fingerprint=fingerprint(records),
            package_version=__version__,
            command=shlex.join(["ambient", "annotate", str(pool), "-o", str(out), *config.arguments()]),
            run=identity,
            options=options,
            sigma_grid=sigma_grid().tolist(),
            draws=config.draws,
            epsilon=config.epsilon,
            clean_set=clean_set,
            classifier=classifier_hash,
            draw_noise=noise.tolist(),
            fold_spread=classifier.spread,
        )
        with replacing(classifier_beside(out)) as beside:
            shutil.copyfile(work.folder / CLASSIFIER, beside)
        write_manifest(out, rows, manifest_schema(score_fields(rows.schema)), metadata)


def _update(before: Past, out: Path, pool: Path, identity: str, run: Run) -> None:
    """Annotate what is new or changed with the classifier of the manifest, and write it again."""
    config, metadata, fresh = run.config, before.metadata, before.fresh
    rows = None
    if fresh.candidates:
        is_clean = None
        if config.clean is not None:
            is_clean = partial(in_clean_dir, pool=pool, clean=config.clean, roots=run.roots)
        elif config.clean_where is not None:
            is_clean = partial(where, predicate=config.clean_where)
        before, rows = choose(before, _collect(fresh, run), is_clean, config.duplicates, run.reporter)
        if is_(rows, "status", "ok").any():
            shutil.copyfile(before.classifier, run.work.folder / CLASSIFIER)
            classifier, _ = trained(rows, metadata.space, run)
            measure(rows, classifier, metadata.space, run)
            rows, _ = _annotated(rows, classifier, run, noise=np.array(metadata.draw_noise))
    table = before.rows if rows is None else join(before, rows)
    metadata = replace(metadata, roots=run.roots, fingerprint=fingerprint(table), run=identity)
    write_manifest(out, table, manifest_schema(score_fields(table.schema)), metadata)


def plan(pool: Path, config: AnnotateConfig) -> dict[str, object]:
    """What ``annotate`` would do, for --dry-run, from the names of the files alone."""
    found = find(roots_of(pool, config.clean))
    return {
        **asdict(config),
        "clean": str(config.clean) if config.clean else None,
        "scores": str(config.scores) if config.scores else None,
        "classifier": str(config.classifier) if config.classifier else None,
        "pictures_found": len(found.candidates),
        "other_files": sum(found.others.values()),
        "noise_levels": len(sigma_grid()),
        "classifier_evaluations": len(found.candidates) * len(sigma_grid()) * config.draws,
    }


def _identity(found: Found, roots: Roots, config: AnnotateConfig) -> str:
    """Of everything that decides the manifest, of the files that are named their contents."""
    contents = [path and digests.of_file(path) for path in (config.scores, config.classifier)]
    return digests.of_json([_options(config), contents, roots, found.candidates.digest(), __version__])


def _options(config: AnnotateConfig) -> str:
    given = {name: str(getattr(config, name)) for name in ("clean", "scores", "classifier")}
    return digests.of_json({**asdict(config), **given})


def _say_found(found: Found, pool: Path, reporter: Reporter) -> None:
    others = ", ".join(f"{count:,} {kind or 'without extension'}" for kind, count in found.others.items())
    if not found.candidates:
        raise UserError(f"there is no picture in {pool}" + (f"; other files: {others}" if others else ""))
    reporter.say(f"found {len(found.candidates):,} pictures in {pool}")
    if others:
        reporter.say(f"left out files that are not pictures: {others}")


def _collect(found: Found, run: Run) -> pa.Table:
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


def _choose_clean(records: pa.Table, pool: Path, sheet: Path | None, run: Run) -> tuple[pa.Table, str]:
    """Stage 2: who is clean, and by what; then duplicates, among which a clean picture wins."""
    config = run.config
    if config.clean is not None:
        mask, how = in_clean_dir(records, pool, config.clean, run.roots), f"--clean {config.clean}"
    elif config.clean_where is not None:
        mask, how = where(records, config.clean_where), f"--clean-where {config.clean_where!r}"
    elif config.classifier is not None and config.clean_top is None:
        mask, how = np.zeros(len(records), bool), "nothing: --classifier judges every picture"
    else:
        top = config.clean_top or Top()
        mask, how = best(records, top), str(top)
        _say_agreement(records, top, run.reporter)
        if sheet:
            write_preview(sheet, records, mask, ranks(records, top.by, top.within), run.roots, workers=run.workers)
            run.reporter.say(f"the best, the worst and the border: {sheet}")
    records = replaced(records, "role", pa.array(np.where(mask, "clean", "pool"), pa.string()))
    records = settle_duplicates(records, config.duplicates)
    ok, clean = is_(records, "status", "ok"), is_(records, "role", "clean")
    if config.classifier is None:
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


def _space(records: pa.Table, run: Run) -> Space:
    """The space asked for, or the given classifier's, or the one that fits the usable pictures."""
    resolution = run.config.resolution
    if run.config.classifier is not None:
        space = load_classifier(run.config.classifier)[0].space
        if resolution not in (None, space.resolution) or run.config.channels != space.channels:
            raise UserError(
                f"{run.config.classifier} judges pictures of {space.resolution}x{space.resolution} with "
                f"{space.channels} channels: leave out --resolution, and give --channels {space.channels}"
            )
        return space
    if resolution is None:
        ok = records.filter(pa.array(is_(records, "status", "ok")))
        short = float(np.median(np.minimum(ok["width"].to_numpy(), ok["height"].to_numpy())))
        resolution = 2 ** int(math.log2(min(256.0, short)))
        run.reporter.say(f"resolution {resolution}: the largest power of two <= the median short side ({short:g})")
    return Space(resolution=resolution, channels=run.config.channels)


def _annotated(
    records: pa.Table, classifier: CrossFitted, run: Run, *, noise: Rows | None = None
) -> tuple[pa.Table, Rows]:
    """Stage 5: records with their curves and thresholds, the columns of a manifest; and the noise of the draws.

    noise: of an earlier manifest; measured when left out.
    """
    curves = pa.concat_tables(pq.read_table(path) for path in sorted(run.work.folder.glob("curves-*.parquet")))
    grid, known = sigma_grid(), curves.filter(pc.is_valid(curves["p_clean"]))
    if noise is None:
        noise = draw_noise(*(matrix(known[name], len(grid)) for name in ("p_clean", "variance", "draws")))
    at = np.full(len(records), -1)
    at[curves["row"].to_numpy()] = np.arange(len(curves))
    curves = curves.take(pa.array(at, mask=at < 0))
    status = pc.if_else(pc.is_valid(curves["problem"]), "unreadable", records["status"].cast(pa.string()))
    records = replaced(records, "status", status)
    records = replaced(records, "reason", pc.coalesce(curves["problem"], records["reason"]))
    for name in ("p_clean", "draws"):
        records = records.append_column(name, curves[name])
    ok = is_(records, "status", "ok")
    for name in (*THRESHOLDS, "sigma_max"):
        records = records.append_column(name, pa.array(np.zeros(len(ok)), pa.float32(), mask=~ok))
    records = records.append_column("method", pa.nulls(len(records), pa.string()))
    rule = Rule(epsilon=run.config.epsilon, per=run.config.per)
    return settle(
        records, rule, grid=grid, noise=noise, spread=np.array(classifier.spread), reporter=run.reporter
    ), noise
