"""Exact ranks by any score columns, and the best share by them. DuckDB's window functions do the counting."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..schemas.errors import UserError
from ..schemas.manifest import RECORD
from . import clip, iqa
from .query import locked, run
from .reference import MIN_SET
from .scores import SCORES

DEFAULT_SHARE = 0.05
"""Without a word from the user. If a tenth of the pool is undamaged, the best half of it is told from mild damage far
more surely than all of it (docs/scores.md), and the classifier asks for few clean pictures rather than wrong ones."""

DEFAULT_BY = ("undamaged",)
WITHIN = ("label", "source")


@dataclass(frozen=True, kw_only=True, slots=True)
class Top:
    """The best share of the usable pictures.

    share: in (0, 1); None takes DEFAULT_SHARE, and at least as many pictures as a clean set needs. by: score columns,
    combined by the mean of the ranks; ``-name`` says that lower is better where ``better_of`` does not know. within:
    None, ``label`` or ``source``: ranks, and the share, within each group.
    """

    share: float | None = None
    by: tuple[str, ...] = DEFAULT_BY
    within: str | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise UserError(f"--clean-top must lie between 0 and 100%, not {self.share:.6g}")
        if not self.by or len(set(self.by)) < len(self.by):
            raise UserError("--by needs the names of one or more scores, each once, such as --by sharpness,noise")
        if self.within not in (None, *WITHIN):
            raise UserError(f"--within is {' or '.join(WITHIN)}, not {self.within!r}")

    def arguments(self) -> list[str]:
        """The command-line options that say the same."""
        words = [] if self.share is None else ["--clean-top", f"{self.share:.6g}"]
        words += ["--by", ",".join(self.by)]
        return words + (["--within", self.within] if self.within else [])

    def __str__(self) -> str:
        share = f"{100 * (self.share or DEFAULT_SHARE):.6g}%"
        within = f" within each {self.within}" if self.within else ""
        return (
            f"the top {share} by {'the mean of the ranks in ' if len(self.by) > 1 else ''}{', '.join(self.by)}{within}"
        )


def top_of(share: str | None, by: str | None, within: str | None) -> Top | None:
    """What the options --clean-top, --by and --within say; None when none of them is given."""
    if share is None and by is None and within is None:
        return None
    names = DEFAULT_BY if by is None else tuple(name.strip() for name in by.split(","))
    return Top(share=None if share is None else _share(share), by=names, within=within)


def _share(text: str) -> float:
    """The share of a text such as ``10%`` or ``0.1``."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UserError(f"--clean-top is a share such as 10% or 0.1, not {text!r}") from error


def ranks(records: pa.Table, by: tuple[str, ...], within: str | None = None) -> NDArray[np.float64]:
    """(N,) mean over the measures of the share of its group that is no better: 1 is the best. 0 where nothing is known.

    The group: all rows with status ``ok``, or those of the same label or source (no label: a group of its own). Equal
    scores share the better rank: a measure that calls many pictures equally good must not hold them back. A score that
    is NULL or NaN ranks 0, as does every row that is not ``ok``; infinities are numbers. A group of one has rank 1.
    Raises UserError where a measure is no column of numbers, or has no good end.
    """
    columns = [_column(records, name) for name in by]
    measures = ", ".join(
        f"CASE WHEN isnan({name}) THEN NULL ELSE {sign}({name}) END AS m{i}" for i, (name, sign) in enumerate(columns)
    )
    each = " + ".join(
        f"CASE WHEN m{i} IS NULL THEN 0 ELSE cume_dist() OVER (PARTITION BY part ORDER BY m{i} NULLS FIRST) END"
        for i in range(len(columns))
    )
    part = within or "0"
    sql = f"""
        WITH usable AS (SELECT place, {part} AS part, {measures} FROM records WHERE status = 'ok')
        SELECT place, ({each}) / {len(columns)} AS rank FROM usable
    """
    with locked() as connection:
        connection.register("records", records.append_column("place", pa.array(np.arange(len(records)))))
        found = run(connection, sql)
    out = np.zeros(len(records))
    out[found["place"].to_numpy()] = found["rank"].to_numpy()
    return out


def best(records: pa.Table, top: Top) -> NDArray[np.bool_]:
    """(N,) the top share of the usable records of each group, rounded, at least one; of equal ranks the earlier row.

    A picture of which no measure is known is never among them.
    """
    table = pa.table(
        {
            "place": pa.array(np.arange(len(records))),
            "status": records["status"],
            "part": records[top.within] if top.within else pa.array(np.zeros(len(records), np.int32)),
            "rank": pa.array(ranks(records, top.by, top.within)),
        }
    )
    least = MIN_SET if top.share is None and top.within is None else 1
    sql = f"""
        SELECT place FROM ranked WHERE status = 'ok'
        QUALIFY rank > 0 AND row_number() OVER (PARTITION BY part ORDER BY rank DESC, place)
            <= greatest({least}, round({top.share or DEFAULT_SHARE!r} * count(*) OVER (PARTITION BY part)))
    """
    with locked() as connection:
        connection.register("ranked", table)
        places = run(connection, sql)["place"].to_numpy()
    mask = np.zeros(len(records), dtype=bool)
    mask[places] = True
    return mask


def agreement(records: pa.Table, by: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """Spearman's rank correlation of each pair of measures over the usable rows that have both, good ends together."""
    columns = [_column(records, name) for name in by]
    out = {}
    with locked() as connection:
        connection.register("records", records)
        for i, (first, first_sign) in enumerate(columns):
            for j, (second, second_sign) in enumerate(columns[:i]):
                sql = f"""
                    WITH pairs AS (SELECT {first_sign}({first}) AS x, {second_sign}({second}) AS y FROM records
                        WHERE status = 'ok' AND NOT isnan({first}) AND NOT isnan({second})),
                    places AS (SELECT rank() OVER (ORDER BY x) + (count(*) OVER (PARTITION BY x) - 1) / 2 AS x,
                        rank() OVER (ORDER BY y) + (count(*) OVER (PARTITION BY y) - 1) / 2 AS y FROM pairs)
                    SELECT CASE WHEN stddev_pop(x) > 0 AND stddev_pop(y) > 0 THEN corr(x, y) END AS agreement
                    FROM places
                """
                value = run(connection, sql)["agreement"][0].as_py()
                out[by[j], by[i]] = float("nan") if value is None else value
    return out


def better_of(name: str) -> str:
    """``high`` or ``low``: which end of a measure is the good one. Columns that nobody knows: high, ``-name``: low.

    Raises UserError for a measure that has no good end.
    """
    if name.startswith("-"):
        return "low"
    better = good_end(name)
    if better is None and name in SCORES:
        raise UserError(f"neither end of {name!r} is the good one: choose with --clean-where, such as {name} > 100")
    return better or "high"


def good_end(column: str) -> str | None:
    """``high`` or ``low``: which end of a score column is the good one. None where neither is, or nobody knows."""
    if column in SCORES:
        return SCORES[column].better
    return "high" if column in clip.NAMES else iqa.names().get(column)


def _column(records: pa.Table, name: str) -> tuple[str, str]:
    """(quoted column, sign that makes higher better)."""
    column = name.removeprefix("-") if name not in records.column_names else name
    index = records.schema.get_field_index(column)
    if column in RECORD.names or index < 0 or not _is_number(records.schema.field(index).type):
        known = [f.name for f in records.schema if f.name not in RECORD.names and _is_number(f.type)]
        raise UserError(f"there is no score {column!r}: there are {', '.join(known) or 'none'}")
    sign = "-" if better_of(name) == "low" else ""
    quoted = column.replace('"', '""')
    return f'"{quoted}"::DOUBLE', sign


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
