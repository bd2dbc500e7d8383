"""What a table that `ambient score` has written says about itself, under the file metadata's key ``ambient-scores``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from .errors import UserError
from .manifest import METADATA_KEY, RECORD, file_metadata

SCORED_VERSION = 1
SCORED_KEY = b"ambient-scores"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """run: BLAKE2b-128 over everything that decided the scores. roots: as in Metadata. settings: the measures."""

    run: str
    roots: dict[str, str]
    command: str
    package_version: str
    settings: dict[str, Any]
    version: int = SCORED_VERSION

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def is_scored_only(path: Path) -> bool:
    """Whether the file at path is a table of scores without thresholds. False for what is no Parquet file."""
    metadata = file_metadata(path)
    return SCORED_KEY in metadata and METADATA_KEY not in metadata


def read_scored(path: Path) -> Scored:
    """What the table at path says.

    Raises UserError when `ambient score` did not write it, another version did, or what it says is damaged.
    """
    schema = pq.read_schema(path)
    raw = (schema.metadata or {}).get(SCORED_KEY)
    if raw is None or not set(RECORD.names) <= set(schema.names):
        raise UserError(
            f"{path} is neither a manifest nor a table of scores: `ambient score POOL -o {path}` writes one"
        )
    try:
        fields: dict[str, Any] = dict(json.loads(raw))
    except (ValueError, TypeError) as error:
        raise UserError(f"the metadata of {path} cannot be read ({error}): score the pool again") from error
    if fields.get("version") != SCORED_VERSION:
        raise UserError(f"{path} was written by another version of ambient: score the pool again")
    try:
        scored = Scored(**fields)
        if not isinstance(scored.roots, dict) or not all(isinstance(root, str) for root in scored.roots.values()):
            raise TypeError("roots are no paths")
    except (ValueError, TypeError) as error:
        raise UserError(f"the metadata of {path} is not complete ({error}): score the pool again") from error
    return scored
