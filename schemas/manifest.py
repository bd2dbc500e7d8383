"""The manifest: one Parquet file, one row per picture found. Its columns, its metadata, and what makes it valid."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import UserError
from .space import Space

SCHEMA_VERSION = 1
METADATA_KEY = b"ambient"
ROW_GROUP_SIZE = 65_536
MAIN_ROOT = "pool"

STATUSES = ("ok", "unreadable", "too_small", "too_large", "duplicate", "excluded")
ROLES = ("clean", "pool")
METHODS = ("clean", "classifier", "source", "label", "quality", "fixed", "rule", "quantile")
SAID = ("fixed", "rule", "quantile")
"""Of these, those by which somebody's word decides, not a classifier."""

Crossing = Literal["rising", "first"]

_category = pa.dictionary(pa.int32(), pa.string())

RECORD = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("source", _category, nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("num_bytes", pa.int64()),
        pa.field("format", _category),
        pa.field("label", pa.int32()),
        pa.field("caption", pa.string()),
        pa.field("status", _category, nullable=False),
        pa.field("reason", pa.string()),
        pa.field("role", _category, nullable=False),
    ]
)
"""A picture as found, before it is annotated: the first columns of the manifest. Score columns follow."""

ANNOTATION = pa.schema(
    [
        pa.field("p_clean", pa.list_(pa.float32())),
        pa.field("draws", pa.list_(pa.int32())),
        pa.field("sigma_min", pa.float32()),
        pa.field("sigma_min_lo", pa.float32()),
        pa.field("sigma_min_hi", pa.float32()),
        pa.field("sigma_max", pa.float32()),
        pa.field("method", _category),
    ]
)
"""What annotation adds. All are null where status is not ``ok``."""


THRESHOLDS = ("sigma_min", "sigma_min_lo", "sigma_min_hi")


def manifest_schema(scores: Sequence[str | pa.Field]) -> pa.Schema:
    """Schema of a manifest with these score columns: named after their measures, float32 where no field says more."""
    columns = [pa.field(score, pa.float32()) if isinstance(score, str) else score for score in scores]
    taken = set(RECORD.names) | set(ANNOTATION.names)
    if clash := taken.intersection(column.name for column in columns):
        raise UserError(f"a score cannot be named {sorted(clash)[0]!r}: the manifest has a column of that name")
    return pa.schema([*RECORD, *columns, *ANNOTATION])


def score_fields(schema: pa.Schema) -> list[pa.Field]:
    """The columns of a manifest, or of a table on the way to one, that are neither found nor annotated: the scores."""
    return [column for column in schema if column.name not in (*RECORD.names, *ANNOTATION.names)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What a manifest says about itself, as JSON under the file metadata's key ``ambient``.

    sigma_grid: noise levels of p_clean, ascending. draws: noise draws per level, on average.
    epsilon: a level counts as good when p_clean > 0.5 - epsilon. crossing: where a curve passes that several times, the
    ``first`` counts, or that of the closest ``rising`` curve. clean_set: what made pictures clean, in words.
    classifier: BLAKE2b-128 of its file, or None.
    draw_noise: at each level, the variance of one draw as a share of p (1 - p). fold_spread: likewise, the
    standard deviation of the log odds between classifiers of the same recipe. pool_share: at each level, how much of
    what is drawn there comes from outside the clean set, where the composition is kept, by curate/composition.py; empty
    where curves do not say it. calibration: [low, high, before, after] of each band of noise levels, the expected
    calibration error of the classifier's held-out p_clean without and with its temperatures.
    roots: name -> absolute path; ``pool`` is the one whose uris carry no name. fingerprint: BLAKE2b-128 over (uri, id).
    run: BLAKE2b-128 over everything that decided the contents, so that the same command knows its own work.
    options: BLAKE2b-128 over the options alone.
    """

    space: Space
    roots: dict[str, str]
    fingerprint: str
    package_version: str
    command: str
    run: str = ""
    options: str = ""
    sigma_grid: list[float] = field(default_factory=list)
    draws: int = 0
    epsilon: float = 0.05
    crossing: Crossing = "rising"
    clean_set: str = ""
    classifier: str | None = None
    draw_noise: list[float] = field(default_factory=list)
    fold_spread: list[float] = field(default_factory=list)
    pool_share: list[float] = field(default_factory=list)
    calibration: list[list[float]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Metadata":
        fields: dict[str, Any] = json.loads(data)
        return cls(**{**fields, "space": Space.from_json(fields["space"])})


def file_metadata(path: Path) -> dict[bytes, bytes]:
    """What a Parquet file says about itself, by key; nothing where there is no such file."""
    try:
        return pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return {}


def read_metadata(path: Path) -> Metadata:
    """Metadata of the manifest at path.

    Raises UserError when the file is missing, is not a manifest, or has another schema version or column types.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder and no manifest: `ambient annotate {path} -o MANIFEST` writes one of it")
    if not path.is_file():
        raise UserError(f"there is no manifest at {path}: write one with `ambient annotate POOL -o {path}`")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})") from error
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise UserError(f"{path} is a Parquet file but not an ambient manifest: `ambient annotate` writes those")
    try:
        version = dict(json.loads(raw)).get("schema_version")
    except (ValueError, TypeError) as error:
        raise UserError(f"the metadata of {path} cannot be read ({error}): annotate the pool again") from error
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        todo = "update ambient-omni" if newer else "annotate the pool again"
        raise UserError(f"{path} has manifest schema {version}; this version reads schema {SCHEMA_VERSION}: {todo}")
    check_columns(schema, str(path))
    try:
        metadata = Metadata.from_bytes(raw)
    except (TypeError, KeyError) as error:
        raise UserError(f"the metadata of {path} is not complete ({error}): annotate the pool again") from error
    shares = metadata.pool_share
    if not isinstance(shares, list) or not all(isinstance(s, int | float) and 0 <= s <= 1 for s in shares):
        raise UserError(f"the metadata of {path} is damaged: pool_share is no list of shares: annotate the pool again")
    if shares and len(shares) != len(metadata.sigma_grid):
        raise UserError(
            f"the metadata of {path} is damaged: pool_share has {len(shares)} values for {len(metadata.sigma_grid)} "
            "noise levels: annotate the pool again"
        )
    return metadata


def check_columns(schema: pa.Schema, where: str) -> None:
    """Raise UserError unless schema has every manifest column with its type; strings may be dictionaries or not."""
    for expected in (*RECORD, *ANNOTATION):
        index = schema.get_field_index(expected.name)
        if index < 0:
            raise UserError(f"{where} has no column {expected.name!r}: it is not a complete manifest")
        found = _value_type(schema.field(index).type)
        if found != _value_type(expected.type):
            raise UserError(f"column {expected.name!r} of {where} is {found}, not {_value_type(expected.type)}")


def check_rows(table: pa.Table, where: str) -> None:
    """Raise UserError, naming the first row, where a manifest's values contradict each other.

    Uris are unique; status, role and method are known words; rows with status ``ok`` have an id, a method and
    thresholds that are numbers >= 0 (inf allowed). Other columns than these are not looked at.
    """
    status = table["status"].cast(pa.string())
    not_ok = pc.not_equal(status, "ok")
    good = {
        "uri": _first_times(table["uri"].combine_chunks()),
        "status": _is_one_of(status, STATUSES),
        "role": _is_one_of(table["role"], ROLES),
        "id": pc.or_kleene(not_ok, pc.match_substring_regex(table["id"], "^[0-9a-f]{32}$")),
        "method": pc.or_kleene(not_ok, _is_one_of(table["method"], METHODS)),
        "sigma_min": pc.or_kleene(not_ok, pc.greater_equal(table["sigma_min"], 0)),  # not true of NaN either
        "sigma_max": pc.or_kleene(not_ok, pc.greater_equal(table["sigma_max"], 0)),
    }
    first = {name: pc.index(pc.fill_null(rows, False), False).as_py() for name, rows in good.items()}
    wrong = {name: row for name, row in first.items() if row >= 0}
    if wrong:
        name = min(wrong, key=lambda column: wrong[column])
        row = table.slice(wrong[name], 1).select(["uri", name]).to_pylist()[0]
        raise UserError(
            f"row {wrong[name]} of {where} ({row['uri']!r}) is wrong: its {name} is {row[name]!r}, {_MUST[name]}: "
            "annotate the pool again"
        )


_MUST = {
    "uri": "which an earlier row has",
    "status": f"not one of {', '.join(STATUSES)}",
    "role": f"not one of {', '.join(ROLES)}",
    "id": "not 32 hex digits",
    "method": f"not one of {', '.join(METHODS)}",
    "sigma_min": "not a number >= 0",
    "sigma_max": "not a number >= 0",
}


def _is_one_of(column: pa.ChunkedArray, words: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.is_in(column.cast(pa.string()), value_set=pa.array(words))


def _first_times(values: pa.Array) -> pa.Array:
    """Whether no earlier value is the same: codes are given in the order of first appearance."""
    codes = values.dictionary_encode().indices
    if len(codes) == 0:
        return pa.array([], pa.bool_())
    return pa.concat_arrays([pa.array([True]), pc.greater(codes[1:], pc.cumulative_max(codes)[:-1])])


def _value_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_large_string(kind) else kind
