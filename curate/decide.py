"""From curves to thresholds: the stage that decides, and decides again from a manifest, without a GPU."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..schemas.errors import UserError
from ..schemas.manifest import THRESHOLDS, Crossing, Metadata
from .columns import Rows, is_, matrix, words
from .parallel import map_in_order
from .pool import replaced
from .query import locked
from .query import run as ask
from .reporter import Reporter
from .tables import shown
from .threshold import decide, decide_per_group

Per = Literal["picture", "source", "label", "quality"]
Parts = Callable[[], Iterator[pa.Table]]
_HARDLY = 10.0  # noise level above which training draws less than 1 picture in 500 (ln sigma ~ N(-1.2, 1.2^2))
_BATCH = 1024  # rows decided at a time, which stay in a core's cache

INSTEAD = "use --sigma-min, --quantile or --rule, or annotate again"
"""What to do where there are no curves."""

OPTIONS = {"fixed": "sigma-min", "sql": "rule"}
"""Fields of a Rule whose option has another name."""

_BOUNDS, _OF_CURVES = {"floor", "cap"}, {"epsilon", "crossing", "per", "use"}
_USES = {
    "rule": {"sql"},
    "quantile": {"quantile", "fixed", "share"},
    "fixed": {"fixed"},
    "quality": {*_OF_CURVES, "by"},
}
"""Method -> fields of a Rule that it looks at, beside _BOUNDS; the other methods look at _OF_CURVES."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What turns a row into sigma_min.

    From its curve: epsilon and crossing, or None for those in the manifest's metadata; per: a value of its own, or one
    for its source, label, or tenth by the score `by`. Without: fixed, one value for all; sql, an expression over the
    columns of the manifest; quantile, a score whose lowest `share` gets `fixed`, and the others 0. use: "hi" takes the
    upper end of the interval. floor, cap: bounds of the finite values. Clean pictures keep 0. Raises UserError for a
    value out of range, and for one that is not at its default where it would change nothing.
    """

    epsilon: float | None = None
    crossing: Crossing | None = None
    per: Per = "picture"
    by: str | None = None
    fixed: float | None = None
    sql: str | None = None
    quantile: str | None = None
    share: float = 0.9
    use: Literal["estimate", "hi"] = "estimate"
    floor: float = 0.0
    cap: float = float("inf")

    def __post_init__(self) -> None:
        if self.epsilon is not None and not 0 < self.epsilon < 0.5:
            raise UserError(f"epsilon must lie between 0 and 0.5, not {self.epsilon}")
        if self.fixed is not None and not self.fixed >= 0:
            raise UserError(f"--sigma-min must be a number >= 0, not {self.fixed}")
        if self.quantile is not None and self.fixed is None:
            raise UserError("--quantile SCORE needs --sigma-min: the value for the pictures with the lowest scores")
        if not 0 < self.share <= 1:
            raise UserError(f"--share must lie in (0, 1], not {self.share}")
        if self.per == "quality" and self.by is None:
            raise UserError("--per quality needs --by SCORE")
        if not 0 <= self.floor <= self.cap:
            raise UserError(
                f"--floor and --cap must be numbers with 0 <= floor <= cap, not {self.floor} and {self.cap}"
            )
        if self.crossing not in (None, "rising", "first"):
            raise UserError(f"--crossing is rising or first, not {self.crossing!r}")
        if self.use not in ("estimate", "hi"):
            raise UserError(f"--use is estimate or hi, not {self.use!r}")
        self._check_used()

    def _check_used(self) -> None:
        """Raises UserError for what would change nothing."""
        used = _BOUNDS | _USES.get(self.method, _OF_CURVES)
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if idle := ", ".join(f"--{OPTIONS.get(name, name)}" for name in given if name not in used):
            basis = f"from curves with --per {self.per}"
            if not self.needs_curves:
                basis = f"by --{OPTIONS.get(self.method, self.method)}"
            raise UserError(f"leave out {idle}: thresholds {basis} do not depend on that")

    @property
    def needs_curves(self) -> bool:
        return self.fixed is None and self.sql is None

    @property
    def method(self) -> str:
        if self.needs_curves:
            return "classifier" if self.per == "picture" else self.per
        return "rule" if self.sql is not None else "quantile" if self.quantile is not None else "fixed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The curves of a manifest's rows, and what tells how far they are off.

    parts: called for tables with the columns row (ascending), p_clean and draws, of the usable rows. grid: (L,) noise
    levels; noise: (L,) from ``draw_noise``; spread: (L,) from ``fold_spread``; epsilon, crossing: of a rule that has
    none.
    """

    parts: Parts
    grid: Rows
    noise: Rows
    spread: Rows
    epsilon: float
    crossing: Crossing

    @classmethod
    def of(cls, metadata: Metadata, parts: Parts) -> "Measured":
        grid, noise, spread = (np.array(v) for v in (metadata.sigma_grid, metadata.draw_noise, metadata.fold_spread))
        if len(noise) and (len(noise) != len(grid) or len(spread) not in (1, len(grid))):
            raise UserError(
                f"the manifest's metadata is damaged: draw_noise has {len(noise)} and fold_spread {len(spread)} values "
                f"for {len(grid)} noise levels"
            )
        return cls(
            parts=parts,
            grid=grid,
            noise=noise,
            spread=spread,
            epsilon=metadata.epsilon,
            crossing=metadata.crossing,
        )


def settle(table: pa.Table, rule: Rule, measured: Measured, reporter: Reporter) -> pa.Table:
    """The manifest's rows with the thresholds, and the method, that a rule gives the usable ones.

    table: without p_clean and draws, which take more memory than all the rest. Raises UserError where the rule cannot
    be applied to it.
    """
    ok = is_(table, "status", "ok")
    use = ok & ~is_(table, "role", "clean")
    values = np.zeros((len(table), 3), dtype=np.float32)
    alone = rule.sql is None and rule.quantile is None and rule.per == "picture"
    looked_at = table.select(["source"]) if alone else table  # a million rows are large
    with np.errstate(over="ignore"):  # what float32 cannot hold is inf
        values[use] = _values(looked_at.filter(pa.array(use)), use, rule, measured, reporter)
    for name, column in zip(THRESHOLDS, values.T, strict=True):
        table = replaced(table, name, pa.array(column, mask=~ok))
    _summary(table.select(["source"]).filter(pa.array(use)), values[use, 0], rule, reporter)
    method = pc.if_else(pa.array(use), rule.method, "clean")
    return replaced(table, "method", pc.if_else(pa.array(ok), method, pa.scalar(None, pa.string())))


def _values(rows: pa.Table, use: Rows, rule: Rule, measured: Measured, reporter: Reporter) -> Rows:
    """(M, 3) sigma_min, lo, hi of usable rows that are not clean; use: (N,) which of the manifest's rows these are."""
    if rule.sql is not None:
        values = np.repeat(_by_sql(rows, rule.sql)[:, None], 3, axis=1)
    elif rule.quantile is not None:
        lowest = _lowest(rows, rule.quantile, rule.share, reporter)
        values = np.where(lowest, rule.fixed or 0.0, 0.0)[:, None].repeat(3, axis=1)
    elif rule.fixed is not None:
        values = np.full((len(rows), 3), rule.fixed)
    elif rule.per == "picture":
        values = _per_picture(use, rule, measured)
    else:
        values = _per_group(use, _groups(rows, rule, reporter), rule, measured)
    if rule.use == "hi":
        values[:, 0] = values[:, 2]
    return np.where(np.isinf(values), values, values.clip(rule.floor, rule.cap))


def _per_picture(use: Rows, rule: Rule, measured: Measured) -> Rows:
    grid, noise, spread = measured.grid, measured.noise, measured.spread
    epsilon, how = _said(rule, measured)

    def of(part: pa.Table) -> Rows:
        mean, count = (matrix(part[name], len(grid)) for name in ("p_clean", "draws"))
        found = decide(mean, count, grid, epsilon, noise=noise, spread=spread, how=how)
        return np.stack(found, axis=1).astype(np.float32)

    parts = map_in_order(of, _batches(use, measured, "p_clean", "draws"), workers=os.cpu_count() or 1)
    return np.concatenate([np.zeros((0, 3), dtype=np.float32), *parts])


def _per_group(use: Rows, groups: Rows, rule: Rule, measured: Measured) -> Rows:
    """One value for each group, from the mean curve of its pictures (eq. 3.2)."""
    levels = len(measured.grid)
    curves = np.zeros((len(groups), levels), dtype=np.float32)
    start = 0
    for part in _batches(use, measured, "p_clean"):
        curves[start : start + len(part)] = matrix(part["p_clean"], levels)
        start += len(part)
    epsilon, how = _said(rule, measured)
    found = decide_per_group(
        curves, groups.tolist(), measured.grid, epsilon, noise=measured.noise, spread=measured.spread, how=how
    )
    return np.array([found[group] for group in groups]).reshape(len(groups), 3)


def _said(rule: Rule, measured: Measured) -> tuple[float, Crossing]:
    """Epsilon and crossing of the rule, or else of the manifest."""
    return measured.epsilon if rule.epsilon is None else rule.epsilon, rule.crossing or measured.crossing


def _batches(use: Rows, measured: Measured, *names: str) -> Iterator[pa.Table]:
    """The curves of the rows in use, in order, some at a time. Raises UserError where a row lacks one of these."""
    needed, levels = int(use.sum()), len(measured.grid)
    missing = needed
    for part in measured.parts():
        mine = part.filter(pa.array(use[part["row"].to_numpy()]))
        for name in names:
            mine = mine.filter(pc.equal(pc.list_value_length(mine[name]), levels))
        missing -= len(mine)
        for start in range(0, len(mine), _BATCH):
            yield mine.slice(start, _BATCH)
    if missing:
        raise UserError(f"{missing:,} of {needed:,} pictures hold no p_clean curves: {INSTEAD}")


def _groups(rows: pa.Table, rule: Rule, reporter: Reporter) -> Rows:
    """(N,) the name of each row's group. Raises UserError where no row has what tells it."""
    if rule.per == "source":
        return words(rows, "source")
    if rule.per == "label":
        missing = rows["label"].null_count
        if missing == len(rows):
            raise UserError("--per label needs labels, and the manifest has none")
        if missing:
            reporter.warn(f"{missing:,} pictures have no label: they share one threshold")
        return np.array([str(label) for label in rows["label"].to_pylist()], dtype=object)
    assert rule.by is not None
    scores = _score(rows, rule.by)
    missing = int(np.isnan(scores).sum())
    if missing == len(rows):
        raise UserError(f"--per quality needs scores, and no picture has {rule.by}")
    if missing:
        reporter.warn(f"{missing:,} pictures have no {rule.by}: they share one threshold")
    tenth = np.ceil(_rank(scores) * 10)
    return np.array([str(int(number)) for number in tenth], dtype=object)


def _lowest(rows: pa.Table, score: str, share: float, reporter: Reporter) -> Rows:
    """(N,) whether a row is among the lowest share by a score: at least that share, for all that tie with it are, too.

    So that what cannot be told from bad pictures counts as bad.
    """
    values = _score(rows, score)
    missing = np.isnan(values)
    if missing.any():
        reporter.warn(f"{int(missing.sum()):,} pictures have no {score}: they count among the lowest")
    lowest: Rows = missing | (_lower(values) < share - 1e-9)
    if (found := lowest.mean()) > share + 1 / max(len(rows), 1) and not missing.mean() > share:
        reporter.warn(f"{found:.0%} of the pictures, not {share:.0%}, are among the lowest: many have the same {score}")
    return lowest


def _lower(scores: Rows) -> Rows:
    """Share of the scores that are lower than each, in [0, 1); NaN is the lowest."""
    values = np.where(np.isnan(scores), -np.inf, scores)
    found: Rows = np.searchsorted(np.sort(values), values) / max(len(values), 1)
    return found


def _rank(scores: Rows) -> Rows:
    """Share of the scores that are no higher than each, in (0, 1], the same for equal ones; 0 for NaN."""
    from scipy.stats import rankdata

    ranks = rankdata(np.where(np.isnan(scores), -np.inf, scores), method="max") / max(len(scores), 1)
    found: Rows = np.where(np.isnan(scores), 0.0, ranks)
    return found


def _score(rows: pa.Table, name: str) -> Rows:
    if name not in rows.column_names or not pa.types.is_floating(rows[name].type):
        raise UserError(f"the manifest has no score {name!r}")
    values: Rows = rows[name].to_numpy().astype(np.float64)
    return values


def _by_sql(rows: pa.Table, expression: str) -> Rows:
    """(N,) the value of a SQL expression over each row. Raises UserError where it is not a number >= 0."""
    numbered = rows.append_column("_row", pa.array(np.arange(len(rows))))
    with locked() as connection:
        connection.register("manifest", numbered)
        answer = ask(connection, f"SELECT _row, ({expression}\n)::DOUBLE AS sigma_min FROM manifest ORDER BY _row")
    if answer.num_columns != 2:
        raise UserError("--rule is one expression, such as CASE WHEN ... THEN ... ELSE ... END")
    if not np.array_equal(answer["_row"].to_numpy(), np.arange(len(rows))):
        raise UserError(f"--rule gives {len(answer):,} values for {len(rows):,} pictures: it must give one for each")
    values: Rows = answer["sigma_min"].to_numpy().astype(np.float64)
    if len(wrong := np.flatnonzero(~(values >= 0))):
        given: Any = answer["sigma_min"][int(wrong[0])].as_py()
        raise UserError(
            f"--rule gives {'NULL' if given is None else given} for {rows['uri'][int(wrong[0])].as_py()!r}: it must "
            "give a number >= 0 for every picture that is not clean (add an ELSE)"
        )
    return values


def _summary(rows: pa.Table, sigma_min: Rows, rule: Rule, reporter: Reporter) -> None:
    """Say what was decided; what noise cannot fix is counted by source. Only curves tell how a picture looks."""
    if len(sigma_min) == 0:
        reporter.warn("no picture is left to annotate: all that are usable are clean")
        return
    never, everywhere = np.isinf(sigma_min), int((sigma_min == 0).sum())
    middle = np.quantile(sigma_min, 0.5, method="inverted_cdf")
    reporter.say(f"sigma_min of {len(sigma_min):,} pictures that are not clean: median {middle:.3g}")
    if everywhere:
        why = " look clean at every noise level:" if rule.needs_curves else ":"
        reporter.say(f"{everywhere:,} of them{why} sigma_min = 0")
    if never.any():
        why = (
            " look wrong at every noise level, which noise cannot mend (colour cast, borders, watermarks, other "
            "content?):"
        )
        if rule.use == "hi":
            why = " have an interval without an upper end, which is what --use hi takes:"
        why = why if rule.needs_curves else ":"
        reporter.warn(f"{_count(never)} of them{why} sigma_min = inf, never used in training: {_listed(rows, never)}")
    if (hardly := ~never & (sigma_min > _HARDLY)).any():
        why = " (colour cast, borders, watermarks, other content?)" if rule.needs_curves else ""
        reporter.warn(
            f"{_count(hardly)} of them are trusted only above sigma {_HARDLY:g}, where training hardly ever draws"
            f"{why}: {_listed(rows, hardly)}"
        )


def _count(chosen: NDArray[np.bool_]) -> str:
    return f"{int(chosen.sum()):,}"


def _listed(rows: pa.Table, chosen: NDArray[np.bool_]) -> str:
    """How many of the chosen each source has, the most first."""
    names, counts = np.unique(words(rows, "source")[chosen].astype(str), return_counts=True)
    most = sorted(zip(counts.tolist(), names.tolist(), strict=True), reverse=True)
    return ", ".join([*(f"{count:,} in {shown(name)}" for count, name in most[:8]), *["..."] * (len(most) > 8)])
