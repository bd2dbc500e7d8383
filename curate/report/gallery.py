"""Which pictures the report shows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...schemas.manifest import ANNOTATION, RECORD
from ..query import run
from ..ranks import DEFAULT_SHARE, good_end
from ..scores import SCORES
from .aggregates import MAX_PANELS

if TYPE_CHECKING:
    import duckdb

_STEPS = 6  # pictures per source, evenly spaced by rank of sigma_min
_SAMPLE = 18  # pictures in a gallery without order
_EXTREMES = 6  # pictures at each end of a score, and around the border of its best DEFAULT_SHARE
_MAX_SCORES = 8
_REFERENCES = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """Some pictures in order. key: for the page; note: what they have in common; score: what they are chosen by."""

    key: str
    title: str
    note: str
    uris: list[str]
    score: str | None = None


def choose(connection: "duckdb.DuckDBPyConnection") -> list[Gallery]:
    """The galleries that are not empty. The same pictures every time: chance is the hash of the uri."""
    other = "status = 'ok' AND role = 'pool'"
    galleries = [
        Gallery(
            key="trust",
            title="By trust level",
            note="Evenly spaced by sigma_min within each source: the picture; the same with noise at its sigma_min; "
            "a clean picture like it with the same noise. The last two should be hard to tell apart.",
            uris=_by_trust(connection),
        ),
        Gallery(
            key="never",
            title="Noise cannot fix",
            note="sigma_min is inf: told from clean pictures at every noise level, or given so. Never trained on.",
            uris=_some(connection, f"{other} AND isinf(sigma_min)"),
        ),
        Gallery(
            key="zero",
            title="Look clean",
            note="Not in the clean set, but trusted at every noise level: sigma_min is 0.",
            uris=_some(connection, f"{other} AND sigma_min = 0"),
        ),
        Gallery(
            key="clean",
            title="Clean set",
            note="What counts as clean: trained on at every noise level.",
            uris=_some(connection, "status = 'ok' AND role = 'clean'"),
        ),
    ]
    added_first = sorted(score_columns(connection), key=SCORES.__contains__)
    for name in added_first[:_MAX_SCORES]:
        galleries += _extremes(connection, name)
    return [gallery for gallery in galleries if gallery.uris]


def score_columns(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """The manifest's columns of single numbers that are neither of the record nor of the annotation."""
    known = {*RECORD.names, *ANNOTATION.names}
    columns = run(connection, "SELECT column_name, column_type FROM (DESCRIBE manifest)").to_pylist()
    return [c["column_name"] for c in columns if c["column_type"] == "FLOAT" and c["column_name"] not in known]


def clean_references(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """Uris of clean pictures, among which the page looks for one that resembles a picture."""
    return _some(connection, "status = 'ok' AND role = 'clean'", _REFERENCES)


def _by_trust(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    shares = [(i + 0.5) / _STEPS for i in range(_STEPS)]
    usable = (
        f"SELECT least(coalesce(source_groups._group_position, {MAX_PANELS}), {MAX_PANELS}) AS panel, uri, sigma_min "
        "FROM manifest LEFT JOIN source_groups ON source_groups._group_name = manifest.source "
        "WHERE status = 'ok' AND role = 'pool' AND sigma_min > 0 AND NOT isinf(sigma_min)"
    )
    return _uris(
        connection,
        f"WITH steps AS (SELECT panel, unnest(quantile_disc(sigma_min, {shares})) AS sigma_min FROM ({usable}) "
        f"GROUP BY panel) SELECT DISTINCT arg_min(uri, hash(uri)) AS uri, sigma_min FROM ({usable}) "
        "JOIN steps USING (panel, sigma_min) GROUP BY panel, sigma_min ORDER BY sigma_min, uri",
    )


def _some(connection: "duckdb.DuckDBPyConnection", predicate: str, count: int = _SAMPLE) -> list[str]:
    return _uris(connection, f"SELECT uri FROM manifest WHERE {predicate} ORDER BY hash(uri) LIMIT {count}")


def _extremes(connection: "duckdb.DuckDBPyConnection", name: str) -> list[Gallery]:
    """Those at the two ends of a score, the good one first where there is one, and those around its border."""
    column = '"' + name.replace('"', '""') + '"'
    ends = [("Highest", f"{column} DESC"), ("Lowest", column)]
    share, side = 1 - DEFAULT_SHARE, "above"
    good = good_end(name)
    if good == "low":
        ends.reverse()
        share, side = DEFAULT_SHARE, "below"
    first, last = ("best", "worst") if good else ("highest", "lowest")
    known = f"FROM manifest WHERE status = 'ok' AND NOT isnan({column})"
    border = run(connection, f"SELECT quantile_disc({column}, {share!r}) AS q {known}")["q"][0].as_py()
    if border is None:
        return []
    about = {
        first: (f"{ends[0][0]} {name}.", ends[0][1]),
        "border": (
            f"Around {name} = {border:.4g}, {side} which the {first} {DEFAULT_SHARE:.0%} lie.",
            f"abs({column} - '{border!r}'::DOUBLE)",
        ),
        last: (f"{ends[1][0]} {name}.", ends[1][1]),
    }
    return [
        Gallery(
            key=f"{word} {name}",
            title=f"{name}: {word}",
            note=note,
            uris=_uris(connection, f"SELECT uri {known} ORDER BY {order}, hash(uri) LIMIT {_EXTREMES}"),
            score=name,
        )
        for word, (note, order) in about.items()
    ]


def _uris(connection: "duckdb.DuckDBPyConnection", sql: str) -> list[str]:
    uris: list[str] = run(connection, sql)["uri"].to_pylist()
    return uris
