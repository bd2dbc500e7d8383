"""The numbers of the report: a few scans by DuckDB, so that ten million rows become a few hundred kilobytes.

Every function takes a connection of ``query.connect``; ``number_groups`` comes before ``groups`` and ``curves``.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...schemas.manifest import SAID, Crossing
from ...schemas.usable import BETA
from ..query import rows_of, run
from ..threshold import mean_crossing

if TYPE_CHECKING:
    import duckdb

Group = Literal["source", "label"]

MAX_GROUPS = 200
"""Sources, or labels, with a line of their own; the rest share one."""

MAX_PANELS = 12
"""Sources with a curve of their own; the rest share one."""

NUM_BINS = 48
_CURVES_PER_PANEL = 2000
_MAX_REASONS = 40


def totals(connection: "duckdb.DuckDBPyConnection") -> dict[str, Any]:
    """Counts over the whole manifest.

    zero, never: usable pictures that are not clean with sigma_min 0 and inf; said: of zero, by somebody's word, which
    the sampler takes for clean; quantiles: 10, 50 and 90 % of sigma_min of all that are not clean; low_noise: with a
    sigma_max above 0; methods: method -> usable pictures.
    """
    row: dict[str, Any] = run(
        connection,
        f"""
        SELECT count(*) AS pictures,
               count(*) FILTER (status = 'ok') AS ok,
               count(*) FILTER (status = 'ok' AND role = 'clean') AS clean,
               count(*) FILTER (status = 'ok' AND role = 'pool' AND sigma_min = 0) AS zero,
               count(*) FILTER (status = 'ok' AND role = 'pool' AND sigma_min = 0 AND method IN {SAID}) AS said,
               count(*) FILTER (status = 'ok' AND role = 'pool' AND isinf(sigma_min)) AS never,
               count(*) FILTER (status = 'ok' AND sigma_max > 0) AS low_noise,
               quantile_disc(sigma_min, [0.1, 0.5, 0.9]) FILTER (status = 'ok' AND role = 'pool') AS quantiles,
               histogram(method) FILTER (status = 'ok') AS methods,
               count(DISTINCT source) AS sources,
               count(DISTINCT label) AS labels
        FROM manifest
        """,
    ).to_pylist()[0]
    return {**row, "methods": dict(row["methods"] or [])}


def statuses(connection: "duckdb.DuckDBPyConnection") -> list[dict[str, Any]]:
    """Rows by status and reason, ``ok`` first, then most first: status, reason, pictures, example (a uri).

    Reasons that differ only in their numbers, or in the picture that they name, are one. Those that have no line share
    the last: "other reasons", one for each status.
    """
    rows: list[dict[str, Any]] = run(
        connection,
        f"""
        SELECT status, CASE WHEN line < {_MAX_REASONS} THEN min(reason) ELSE 'other reasons' END AS reason,
               sum(pictures)::BIGINT AS pictures, min(example) AS example
        FROM (
            SELECT status, CASE WHEN min(reason) = max(reason) THEN min(reason) ELSE kind END AS reason,
                   count(*) AS pictures, min(uri) AS example,
                   row_number() OVER (ORDER BY status = 'ok' DESC, count(*) DESC, status, kind) - 1 AS place,
                   least(place, {_MAX_REASONS}) AS line
            FROM (
                SELECT status, reason, uri,
                       CASE WHEN status = 'duplicate' THEN 'same content as another picture'
                            ELSE regexp_replace(reason, '[0-9]+', 'N', 'g') END AS kind
                FROM manifest
            )
            GROUP BY status, kind
        )
        GROUP BY status, line
        ORDER BY line, pictures DESC, status
        """,
    ).to_pylist()
    return rows


def number_groups(connection: "duckdb.DuckDBPyConnection") -> None:
    """Number the largest sources and labels: tables source_groups and label_groups (_group_name, _group_position).

    A manifest may have further columns of any name, so queries that join it with them qualify theirs.
    """
    for column in ("source", "label"):
        run(
            connection,
            f"CREATE TEMP TABLE {column}_groups AS SELECT {column} AS _group_name, "
            f"row_number() OVER (ORDER BY count(*) DESC, {column}) - 1 AS _group_position "
            f"FROM manifest WHERE {column} IS NOT NULL GROUP BY {column} ORDER BY 2 LIMIT {MAX_GROUPS}",
        )


def groups(connection: "duckdb.DuckDBPyConnection", column: Group, grid: list[float]) -> list[dict[str, Any]]:
    """One dictionary per source or label, the largest first; the last, named None, holds those that have no line.

    grid: (L,) noise levels, ascending. pictures: rows; ok: usable ones; clean: of these; zero, said, never: of the
    usable that are not clean, as in ``totals``; bins: the others of them by sigma_min, in NUM_BINS bins of equal
    width in ln sigma over the grid; quantiles: 10, 50 and 90 % of their sigma_min; usable: (L,) how many may be
    used at each level.
    """
    numbers = f"{column}_groups"
    low, step = math.log(grid[0]), math.log(grid[-1] / grid[0]) / NUM_BINS
    levels = ", ".join(f"count(*) FILTER (ok AND ({s!r}::DOUBLE > above OR {s!r}::DOUBLE < below))" for s in grid)
    rows: list[dict[str, Any]] = run(
        connection,
        f"""
        SELECT position, name, count(*) AS pictures, count(*) FILTER (ok) AS ok,
               count(*) FILTER (ok AND clean) AS clean,
               count(*) FILTER (ok AND NOT clean AND sigma_min = 0) AS zero,
               count(*) FILTER (ok AND NOT clean AND sigma_min = 0 AND said) AS said,
               count(*) FILTER (ok AND NOT clean AND isinf(sigma_min)) AS never,
               histogram(bin) FILTER (ok AND NOT clean) AS bins,
               quantile_disc(sigma_min, [0.1, 0.5, 0.9]) FILTER (ok AND NOT clean) AS quantiles,
               [{levels}] AS usable
        FROM (
            SELECT coalesce({numbers}._group_position, {MAX_GROUPS}) AS position, {numbers}._group_name AS name,
                   status = 'ok' AS ok, role = 'clean' AS clean, method IN {SAID} AS said, sigma_min,
                   {BETA!r}::DOUBLE * sigma_min::DOUBLE AS above, sigma_max::DOUBLE AS below,
                   CASE WHEN sigma_min > 0 AND NOT isinf(sigma_min) THEN
                       greatest(0, least({NUM_BINS - 1}, floor((ln(sigma_min) - {low!r}) / {step!r})))::INTEGER
                   END AS bin
            FROM manifest LEFT JOIN {numbers} ON {numbers}._group_name = manifest.{column}
        )
        GROUP BY position, name
        ORDER BY position
        """,
    ).to_pylist()
    for row in rows:
        bins = dict(row["bins"] or [])
        row["bins"] = [bins.get(i, 0) for i in range(NUM_BINS)]
        row["name"] = None if row.pop("position") == MAX_GROUPS else str(row["name"])
    return rows


def curves(
    connection: "duckdb.DuckDBPyConnection",
    manifest: Path,
    grid: list[float],
    tau: float,
    *,
    noise: Sequence[float] = (),
    how: Crossing = "rising",
) -> dict[str, Any]:
    """p_clean against the level, from about 2,000 pictures per panel, picked by the hash of their uris.

    panels: one of the clean set, then one per source of the others, the largest first, the rest (name None) together:
    name, role, pictures (how many it stands for), sampled, mean, p10, p90 (L,), crossing (sigma_min of the mean curve,
    eq. 3.2).
    clean, other: (L,) mean over all clean pictures, and over all others, or None.
    """
    sizes, chosen = _choose_curves(connection)
    table = rows_of(manifest, chosen["uri"].combine_chunks(), ["uri", "p_clean"])
    table = table.filter(pc.equal(pc.list_value_length(table["p_clean"]), len(grid)))
    at = pc.index_in(table["uri"], value_set=chosen["uri"].combine_chunks())
    panel = chosen["panel"].take(at).to_numpy()
    values = pc.list_flatten(table["p_clean"]).to_numpy().astype(np.float64).reshape(-1, len(grid))
    panels = []
    for size in sizes:
        mine = values[panel == size["panel"]]
        if len(mine):
            mean, (p10, p90) = mine.mean(axis=0), np.quantile(mine, [0.1, 0.9], axis=0)
            scatter = np.array(noise or 0.0)
            sigma = float(mean_crossing(mean[None], len(mine), np.array(grid), tau, scatter, how)[0])
            found = {"sampled": len(mine), "mean": mean, "p10": p10, "p90": p90, "crossing": sigma}
            panels.append({**{k: size[k] for k in ("name", "role", "pictures")}, **found})
    return {"panels": panels, "clean": _overall(panels, "clean"), "other": _overall(panels, "pool")}


def _choose_curves(connection: "duckdb.DuckDBPyConnection") -> tuple[list[dict[str, Any]], pa.Table]:
    """Panels (panel, role, name, pictures), and the pictures that stand for them (uri, panel)."""
    numbered = f"""
        SELECT CASE WHEN role = 'clean' THEN -1
                    ELSE least(coalesce(source_groups._group_position, {MAX_PANELS}), {MAX_PANELS}) END AS panel,
               role, uri,
               CASE WHEN role = 'pool' AND source_groups._group_position < {MAX_PANELS}
                    THEN source_groups._group_name END AS name
        FROM manifest LEFT JOIN source_groups ON source_groups._group_name = manifest.source
        WHERE status = 'ok'
    """
    run(
        connection,
        f"CREATE TEMP TABLE panels AS SELECT panel, role, name, count(*) AS pictures FROM ({numbered}) GROUP BY ALL",
    )
    chosen = run(
        connection,
        f"SELECT uri, panel FROM ({numbered}) JOIN panels USING (panel) "
        f"WHERE hash(uri)::DOUBLE / 2e0 ** 64 * pictures < {_CURVES_PER_PANEL}",
    )
    return run(connection, "FROM panels ORDER BY panel").to_pylist(), chosen


def _overall(panels: list[dict[str, Any]], role: str) -> NDArray[np.float64] | None:
    """Mean curve over all pictures of a role, from the panels' means."""
    mine = [panel for panel in panels if panel["role"] == role]
    if not mine:
        return None
    weights = np.array([panel["pictures"] for panel in mine], dtype=np.float64)
    mean: NDArray[np.float64] = np.average([panel["mean"] for panel in mine], axis=0, weights=weights)
    return mean
