"""Deciding again from the curves in a manifest: another rule, no GPU, no pictures."""

import shlex
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ..schemas.errors import UserError
from ..schemas.manifest import manifest_schema, read_metadata, score_fields
from . import digests
from .decide import Rule, settle
from .manifest import write_manifest
from .reporter import Reporter

_OPTIONS = {"fixed": "sigma-min", "sql": "rule"}
"""Fields of a Rule whose option has another name."""


def rethreshold(
    manifest: Path, out: Path, rule: Rule, *, overwrite: bool = False, reporter: Reporter | None = None
) -> Path:
    """Write a manifest with the thresholds that a rule gives to the pictures of another, all else unchanged.

    Raises UserError when the manifest has no curves and the rule needs them, or when `out` exists.
    """
    metadata = read_metadata(manifest)
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists: choose another -o or add --overwrite")
    if rule.needs_curves and not metadata.draw_noise:
        raise UserError(f"{manifest} holds no p_clean curves: use --sigma-min, --quantile or --rule, or annotate again")
    table = settle(
        pq.read_table(manifest),
        rule,
        grid=np.array(metadata.sigma_grid),
        noise=np.array(metadata.draw_noise),
        spread=np.array(metadata.fold_spread),
        reporter=reporter or Reporter(),
    )
    words = ["ambient", "threshold", str(manifest), "-o", str(out), *_arguments(rule)]
    metadata = replace(
        metadata, command=shlex.join(words), run=digests.of_json([metadata.run, words]), epsilon=rule.epsilon
    )
    write_manifest(out, table, manifest_schema(score_fields(table.schema)), metadata)
    return out


def _arguments(rule: Rule) -> list[str]:
    """The options that say the same, those left at their defaults left out."""
    given = [(f.name, getattr(rule, f.name)) for f in fields(rule) if getattr(rule, f.name) != f.default]
    return [word for name, value in given for word in ("--" + _OPTIONS.get(name, name), str(value))]
