"""Deciding again from the curves in a manifest: another rule, no GPU, no pictures."""

import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..schemas.errors import UserError
from ..schemas.manifest import manifest_schema, read_metadata, score_fields
from . import digests
from .composition import pool_share
from .decide import INSTEAD, OPTIONS, Measured, Rule, settle
from .known import join_scores
from .manifest import check_replaceable, curves_of, write_manifest
from .reporter import Reporter

DECIDED_AGAIN = "decided again: "
"""How the options in the metadata begin: new pictures would get other thresholds than these."""

_CURVES = ("p_clean", "draws")
_BATCH = 8192


def rethreshold(
    manifest: Path,
    out: Path,
    rule: Rule,
    *,
    scores: Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write a manifest with the thresholds that a rule gives to the pictures of another, all else unchanged.

    scores: a table whose columns are added first, as by ``join_scores``. The metadata's epsilon and crossing change
    only where the rule names others for the curves. Raises UserError when the manifest has no curves and the rule needs
    them, or when `out` exists.
    """
    metadata = read_metadata(manifest)
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: choose another -o or add --overwrite")
    check_replaceable(out)
    if rule.needs_curves and not metadata.draw_noise:
        raise UserError(f"{manifest} holds no p_clean curves: {INSTEAD}")
    light = [name for name in pq.read_schema(manifest).names if name not in _CURVES]
    curves = partial(_curves, manifest)
    table = pq.read_table(manifest, columns=light)
    words, contents = ["ambient", "threshold", str(manifest), "-o", str(out), *_arguments(rule)], []
    if scores is not None:
        table = join_scores(table, scores)
        words, contents = [*words, "--scores", str(scores)], [digests.of_file(scores)]
    table = settle(table, rule, Measured.of(metadata, curves), reporter or Reporter())
    metadata = replace(
        metadata,
        command=shlex.join(words),
        run=digests.of_json([metadata.run, words, *contents]),
        options=DECIDED_AGAIN + metadata.options.removeprefix(DECIDED_AGAIN),
        epsilon=metadata.epsilon if rule.epsilon is None else rule.epsilon,
        crossing=rule.crossing or metadata.crossing,
        pool_share=pool_share(table, np.array(metadata.sigma_grid), curves()),
    )
    write_manifest(out, table, manifest_schema(score_fields(table.schema)), metadata, curves=curves())
    return out


def _curves(manifest: Path) -> Iterator[pa.Table]:
    """Columns row, p_clean and draws of the rows that have some."""
    with pq.ParquetFile(manifest) as file:
        batches = file.iter_batches(batch_size=_BATCH, columns=list(_CURVES))
        yield from curves_of(pa.Table.from_batches([batch]) for batch in batches)


def _arguments(rule: Rule) -> list[str]:
    """The options that say the same, those left at their defaults left out."""
    given = [(f.name, getattr(rule, f.name)) for f in fields(rule) if getattr(rule, f.name) != f.default]
    return [word for name, value in given for word in ("--" + OPTIONS.get(name, name), str(value))]
