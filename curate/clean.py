"""The stage that chooses the clean set, and settles which of several copies is used."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import is_
from .pool import replaced, settle_duplicates
from .preview import write_preview
from .ranks import Top, agreement, best, ranks
from .reference import check_split, in_clean_dir, where
from .reporter import Reporter
from .run import Run
from .scores import COMBINED


def choose_clean(records: pa.Table, pool: Path, sheet: Path | None, run: Run) -> tuple[pa.Table, str]:
    """Stage 2: who is clean, and by what; then duplicates, among which a clean picture wins.

    Before a choice by rank duplicates are settled, too: copies must not take the places of others.
    sheet: where to show a choice by rank. Raises UserError where there is nothing to tell apart.
    """
    config = run.config
    if config.clean is not None:
        mask, how = in_clean_dir(records, pool, config.clean, run.roots), f"--clean {config.clean}"
    elif config.clean_predicate is not None:
        how = f"what --where {config.where!r} leaves" if config.where else f"--clean-where {config.clean_where!r}"
        mask = where(records, config.clean_predicate)
    elif config.clean_top is None and (config.classifier or config.sigma_min is not None):
        given = "--classifier judges" if config.classifier else f"--sigma-min {config.sigma_min:g} holds for"
        mask, how = np.zeros(len(records), bool), f"nothing: {given} every picture"
    else:
        top, records = config.clean_top or Top(), settle_duplicates(records, config.duplicates)
        mask, how = best(records, top), str(top)
        _say_agreement(records, top, run.reporter)
        if sheet:
            write_preview(sheet, records, mask, ranks(records, top.by, top.within), run.roots, workers=run.workers)
            run.reporter.say(f"the best, the worst and the border: {sheet}")
    records = replaced(records, "role", pa.array(np.where(mask, "clean", "pool"), pa.string()))
    records = settle_duplicates(records, config.duplicates)
    ok, clean = is_(records, "status", "ok"), is_(records, "role", "clean")
    if config.classifier is None and config.sigma_min is None:
        check_split(int((ok & clean).sum()), int((ok & ~clean).sum()), how)
    run.reporter.say(f"clean set: {(ok & clean).sum():,} of {ok.sum():,} usable pictures, by {how}")
    if config.where is not None and not (ok & clean).any():
        run.reporter.warn(f"--where {config.where!r} picks every picture, so none is clean: low noise levels have none")
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
    pairs = {pair: value for pair, value in pairs.items() if not np.isnan(value)}  # of one picture, or equal ones
    if pairs:
        shown = ", ".join(f"{first} and {second} {value:.2f}" for (first, second), value in pairs.items())
        reporter.say(f"agreement of the measures (Spearman's rank correlation): {shown}")
