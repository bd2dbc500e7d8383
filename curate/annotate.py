"""Annotating a pool: records -> clean set -> classifier -> p_clean curves -> sigma_min -> manifest.

Every stage writes finished parts (curate/manifest.py), so the same command continues a run that was stopped.
"""

import math
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from .. import __version__
from ..schemas.errors import UserError
from ..schemas.manifest import METADATA_KEY, THRESHOLDS, Metadata, manifest_schema, score_fields
from ..schemas.space import Space
from .clean import choose_clean
from .columns import is_, words
from .composition import pool_share
from .config import AnnotateConfig
from .crossfit import load_classifier
from .decide import Measured, Rule, settle
from .device import choose_device, fast_matmul
from .duplicates import NAMES as NEAR_DUPLICATES
from .identity import check_same_pool, identity_of, options_of, work_id_of
from .known import join_scores, near_duplicates_told, score_names
from .learn import CLASSIFIER, trained, warn_of_strangers
from .manifest import Work, curves_of, fingerprint, is_finished, row_groups, with_curves, write_manifest
from .measure import PER_PART, follow, measure, measured_parts, noise_of_draws, unreadable_now
from .memory import give_back
from .networks import ScoreConfig, load_networks
from .parallel import MANY
from .pool import Found, find
from .reading import collect, say_found, say_unlabelled, usable
from .reference import in_clean_dir, roots_of_pool, where
from .reporter import Reporter
from .run import Run
from .scores import SCORES
from .scoring import add_scores
from .team import Team, joined
from .threshold import sigma_grid
from .update import Past, by_name, choose, classifier_beside, join, past
from .uris import close_archives
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
    _check_together(config, overwrite=overwrite, update=update, preview=preview)
    with joined() as team:
        place = team.device(choose_device(device))
        with fast_matmul(place):
            if team.rank > 0:
                follow(out, config, team=team, device=place, workers=workers)
            else:
                _lead(pool, out, config, team, place, workers, overwrite, update, preview, reporter)
                team.tell(None)
    return out


def _check_together(config: AnnotateConfig, *, overwrite: bool, update: bool, preview: bool) -> None:
    """Raise UserError for options that contradict each other: a preview shows a clean set chosen by rank."""
    if update and overwrite:
        raise UserError("--update adds to the manifest that is there, --overwrite replaces it: leave one of them out")
    if not preview:
        return
    said = config.clean or config.clean_predicate or config.classifier or config.sigma_min is not None
    if update:
        raise UserError("--preview shows how a clean set is chosen, and --update keeps the one there is")
    if said and config.clean_top is None:
        raise UserError("--preview shows a choice by rank: add --clean-top, or leave --preview out")


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
    roots = roots_of_pool(pool, config.clean)
    if config.classifier is not None:
        _space_of(config.classifier, config)  # raises UserError now, not after reading
    found = find(roots)
    say_found(found, pool, reporter)
    identity, options = identity_of(found, roots, config), options_of(config)
    before = past(out, found, roots, options, workers=workers, reporter=reporter) if update else None
    if before is None and not overwrite:
        check_same_pool(out, identity, options, roots)
    if before is None and is_finished(out, identity, METADATA_KEY, overwrite=overwrite, reporter=reporter):
        reporter.say("pictures that were changed since are looked at with --update")
        if preview:
            reporter.say("the clean set is shown while it is chosen: --preview needs --overwrite here")
        return
    with Work(out, work_id_of(identity, place, before)) as work:
        if work.discarded:
            reporter.say("the options, the pool or the device have changed since the last run: starting again")
        run = Run(config=config, roots=roots, work=work, device=place, workers=workers, reporter=reporter, team=team)
        if before:
            _update(before, out, pool, identity, run)
            return
        sheet = out.with_suffix(".clean.png") if preview else None
        records = _collect(found, run)
        say_unlabelled(found, records, reporter)
        records, clean_set = choose_clean(usable(records), pool, sheet, run)
        del found
        give_back()  # as much as the records take, several times over
        metadata = Metadata(
            space=_space(records, run),
            roots=roots,
            fingerprint=fingerprint(records),
            package_version=__version__,
            command=shlex.join(["ambient", "annotate", str(pool), "-o", str(out), *config.arguments()]),
            run=identity,
            options=options,
            epsilon=config.epsilon,
            crossing=config.crossing,
            clean_set=clean_set,
        )
        if config.sigma_min is None:
            records, metadata = _judged(records, metadata, run)
            with replacing(classifier_beside(out)) as beside:
                shutil.copyfile(work.folder / CLASSIFIER, beside)
            give_back()
        close_archives()
        rows = _decided(records, metadata, run)
        del records
        give_back()
        metadata = _composed(metadata, rows, measured_parts(work))
        write_manifest(out, rows, manifest_schema(score_fields(rows.schema)), metadata, curves=measured_parts(work))
    reporter.say(f"written: {len(rows):,} rows to {out}")


def _update(before: Past, out: Path, pool: Path, identity: str, run: Run) -> None:
    """Annotate what is new or changed with the classifier of the manifest, and write it again."""
    config, metadata, fresh = run.config, before.metadata, before.fresh
    rows = None
    if fresh.candidates:
        is_clean = None
        if config.clean is not None:
            is_clean = partial(in_clean_dir, pool=pool, clean=config.clean, roots=run.roots)
        elif predicate := config.clean_predicate:
            is_clean = partial(where, predicate=predicate)
        before, rows = choose(before, _collect(fresh, run, part=True), is_clean, config.duplicates, run.reporter)
        if is_(rows, "status", "ok").any():
            if before.classifier is not None:
                shutil.copyfile(before.classifier, run.work.folder / CLASSIFIER)
                rows, _ = _judged(rows, metadata, run, known=set(words(before.rows, "source")))
            rows = _decided(rows, metadata, run)
            rows = pa.concat_tables(with_curves(rows, measured_parts(run.work)))
    table = before.rows if rows is None else join(before, rows)
    if set(NEAR_DUPLICATES) <= set(table.column_names):
        table = near_duplicates_told(table)
    metadata = replace(metadata, roots=run.roots, fingerprint=fingerprint(table), run=identity)
    metadata = _composed(metadata, table, curves_of(row_groups(table)))
    write_manifest(out, table, manifest_schema(score_fields(table.schema)), metadata)
    run.reporter.say(f"written: {len(table):,} rows to {out}")


def plan(
    pool: Path,
    config: AnnotateConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    update: bool = False,
    preview: bool = False,
) -> dict[str, object]:
    """What ``annotate`` would do, for --dry-run, from the names of the files alone.

    update: of the manifest `out`; then evaluations are those of new names, and changed pictures come on top.
    """
    _check_together(config, overwrite=overwrite, update=update, preview=preview)
    found = find(roots_of_pool(pool, config.clean))
    names = by_name(out, found) if update and out is not None else {}
    evaluations = names.get("pictures_new", len(found.candidates)) * len(sigma_grid()) * config.draws
    return {
        **asdict(config),
        "clean": str(config.clean) if config.clean else None,
        "scores": str(config.scores) if config.scores else None,
        "classifier": str(config.classifier) if config.classifier else None,
        "pictures_found": len(found.candidates),
        **names,
        "other_files": sum(found.others.values()),
        "noise_levels": len(sigma_grid()),
        "classifier_evaluations": evaluations if config.sigma_min is None else 0,
    }


def _collect(found: Found, run: Run, *, part: bool = False) -> pa.Table:
    """Stage 1: read every file once; identity, size, status, scores. part: what was found is not the whole pool."""
    config, by = run.config, run.config.clean_top.by if run.config.clean_top else ()
    known = {*SCORES, *(score_names(config.scores) if config.scores else ())}
    more = tuple(name for name in by if name.removeprefix("-") not in known)
    networks = load_networks(ScoreConfig(by=more), run.device)
    records = collect(found, run.roots, run.work, run.workers, run.reporter)
    if config.scores is not None:
        records = join_scores(records, config.scores, warn=run.reporter.warn if part else None)
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


def _space(records: pa.Table, run: Run) -> Space:
    """The space asked for, or the given classifier's, or the one that fits the usable pictures."""
    resolution = run.config.resolution
    if run.config.classifier is not None:
        return _space_of(run.config.classifier, run.config)
    if resolution is None:
        ok = records.filter(pa.array(is_(records, "status", "ok")))
        short = float(np.median(np.minimum(ok["width"].to_numpy(), ok["height"].to_numpy())))
        resolution = 2 ** int(math.log2(min(256.0, short)))
        run.reporter.say(f"resolution {resolution}: the largest power of two <= the median short side ({short:g})")
    return Space(resolution=resolution, channels=run.config.channels)


def _space_of(classifier: Path, config: AnnotateConfig) -> Space:
    """The space that a classifier judges. Raises UserError where there is none, or another is asked for."""
    space = load_classifier(classifier)[0].space
    judges = f"{classifier} judges pictures of {space.resolution}x{space.resolution} with {space.channels} channels"
    if config.resolution not in (None, space.resolution):
        raise UserError(f"{judges}: leave out --resolution")
    if config.channels != space.channels:
        raise UserError(f"{judges}: give --channels {space.channels}")
    return space


def _judged(
    records: pa.Table, metadata: Metadata, run: Run, *, known: set[str] | None = None
) -> tuple[pa.Table, Metadata]:
    """Stages 3 and 4: train the classifier, unless there is one, and measure curves, which stay in their parts.

    known: in an update, the sources that the classifier has judged before.

    Returns the records, some of which may have turned out unreadable, and the metadata with what is known of curves;
    the noise of the draws stays that of an earlier manifest.
    """
    classifier, content_hash = trained(records, metadata.space, run)
    if run.config.classifier is not None or known is not None:
        warn_of_strangers(records, classifier, known, run)
    give_back(readers=PER_PART[run.device.type] < MANY or run.team.size > 1)  # others read from here on
    measure(records, classifier, metadata.space, run)
    return unreadable_now(records, run.work), replace(
        metadata,
        sigma_grid=sigma_grid().tolist(),
        draws=run.config.draws,
        classifier=content_hash,
        draw_noise=metadata.draw_noise or noise_of_draws(run.work).tolist(),
        fold_spread=classifier.spread,
        calibration=classifier.calibration,
    )


def _composed(metadata: Metadata, rows: pa.Table, curves: Iterable[pa.Table]) -> Metadata:
    return replace(metadata, pool_share=pool_share(rows, np.array(metadata.sigma_grid), curves))


def _decided(records: pa.Table, metadata: Metadata, run: Run) -> pa.Table:
    """Stage 5: records with their thresholds, the columns of a manifest but for the curves."""
    ok = is_(records, "status", "ok")
    for name in (*THRESHOLDS, "sigma_max"):
        records = records.append_column(name, pa.array(np.zeros(len(ok)), pa.float32(), mask=~ok))
    records = records.append_column("method", pa.nulls(len(records), pa.string()))
    config = run.config
    given = config.sigma_min is not None
    rule = Rule(fixed=config.sigma_min) if given else Rule(epsilon=config.epsilon, per=config.per)
    return settle(records, rule, Measured.of(metadata, lambda: measured_parts(run.work)), run.reporter)
