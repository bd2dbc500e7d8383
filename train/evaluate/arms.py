"""Arms of a comparison: the same pool, used in other ways, each written as a manifest that is trained as any other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...curate import digests
from ...curate.columns import is_
from ...curate.composition import pool_share
from ...curate.manifest import curves_of, row_groups, write_manifest
from ...curate.pool import replaced
from ...curate.query import matching
from ...schemas.errors import UserError
from ...schemas.manifest import ANNOTATION, RECORD, THRESHOLDS, manifest_schema, read_metadata

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A way to use a pool.

    where: SQL predicate over the columns of the manifest, the pictures that are used; None for all. equal: use them at
    every noise level, whatever their thresholds. sigma_min: of every picture that is not clean, instead of its own.
    """

    name: str
    meaning: str
    where: str | None = None
    equal: bool = False
    sigma_min: float | None = None


CLEAN = Arm(name="clean", meaning="clean pictures only", where="role = 'clean'", equal=True)
ALL = Arm(name="all", meaning="all pictures as equal", equal=True)
AMBIENT = Arm(name="ambient", meaning="all pictures, each above its own sigma_min")


def fixed(sigma_min: float) -> Arm:
    """One sigma_min for all pictures that are not clean."""
    if not sigma_min > 0:
        raise UserError(f"--fixed must be above 0, not {sigma_min}: --arm all uses all pictures as equal")
    return Arm(name=f"fixed-{sigma_min:g}", meaning=f"all that are not clean above {sigma_min:g}", sigma_min=sigma_min)


def chosen(name: str, where: str) -> Arm:
    """The pictures that a SQL predicate picks, as equal: what filtering does."""
    if not name.replace("-", "").replace("_", "").isalnum() or name in (CLEAN.name, ALL.name, AMBIENT.name):
        raise UserError(f"an arm is named with letters, digits and dashes, not clean, all or ambient: not {name!r}")
    return Arm(name=name, meaning=f"pictures with {where}, as equal", where=where, equal=True)


def held_out(ids: list[str | None], share: float) -> Mask:
    """(N,) which pictures are kept out of training: a function of the content alone, about this share."""
    digits = np.array([int(content[16:24], 16) if content else 2**32 for content in ids], dtype=np.float64)
    out: Mask = digits < share * 2**32
    return out


def split(manifest: Path, share: float) -> tuple[pa.Table, Mask]:
    """The manifest's table, and which of its rows are clean, usable and held out of training."""
    read_metadata(manifest)  # raises UserError where it is none
    table = pq.read_table(manifest)
    clean = is_(table, "status", "ok") & is_(table, "role", "clean")
    return table, clean & held_out(table["id"].to_pylist(), share)


def used_by(table: pa.Table, out_of_training: Mask, arm: Arm) -> Mask:
    """(N,) which rows of a manifest's table an arm trains on. out_of_training: (N,) rows that no arm trains on.

    Raises UserError where the arm's predicate is no SQL, or nothing is left.
    """
    used = is_(table, "status", "ok") & ~out_of_training & _picked(table, arm)
    if not used.any():
        raise UserError(f"arm {arm.name}: no usable picture is left to train on ({arm.meaning})")
    return used


def alike(table: pa.Table, out_of_training: Mask, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Names of arms that train on the same pictures at the same noise levels: each with the first like it.

    Where thresholds are found, clean pictures and others are drawn as curves say, and else by what is usable alone:
    these are not alike.

    Arguments and errors as in ``used_by``.
    """
    first: dict[str, str] = {}
    found = []
    for arm in arms:
        used, floor = used_by(table, out_of_training, arm), table["sigma_min"].to_numpy().astype(np.float64)
        if arm.equal or arm.sigma_min is not None:
            floor = np.where(arm.equal | ~is_(table, "role", "clean"), arm.sigma_min or 0.0, floor)
        top = np.where(floor > 0, table["sigma_max"].to_numpy().astype(np.float64), 0.0)
        drawn = used & (np.isfinite(floor) | (top > 0))
        clean = is_(table, "role", "clean") & drawn
        told = np.array([not arm.equal and arm.sigma_min is None and clean.any() and not clean[drawn].all()])
        key = digests.of_bytes(b"".join(values.tobytes() for values in (drawn, floor[drawn], top[drawn], told)))
        if (before := first.setdefault(key, arm.name)) != arm.name:
            found.append((before, arm.name))
    return found


def write_arm(manifest: Path, table: pa.Table, out_of_training: Mask, arm: Arm, path: Path) -> None:
    """Write the manifest of an arm: other rows are excluded, each with its reason, and thresholds changed.

    table: of the manifest. out_of_training: as in ``used_by``, which says what is raised.
    """
    ok, used = is_(table, "status", "ok"), used_by(table, out_of_training, arm)
    reason = np.where(out_of_training, "held out", f"not in arm {arm.name}")
    excluded = pa.array(ok & ~used)
    table = replaced(table, "status", pc.if_else(excluded, "excluded", table["status"].cast(pa.string())))
    table = replaced(table, "reason", pc.if_else(excluded, pa.array(reason), table["reason"]))
    if arm.equal or arm.sigma_min is not None:
        changed = pa.array(used & (arm.equal | ~is_(table, "role", "clean")))
        for name in THRESHOLDS:
            table = replaced(
                table, name, pc.if_else(changed, pa.scalar(arm.sigma_min or 0.0, pa.float32()), table[name])
            )
        table = replaced(table, "method", pc.if_else(changed, "fixed", table["method"].cast(pa.string())))
    metadata = read_metadata(manifest)
    if arm.equal or arm.sigma_min is not None:
        metadata = replace(metadata, pool_share=[])  # which is of other thresholds
    elif shares := pool_share(table, np.array(metadata.sigma_grid), curves_of(row_groups(table))):
        metadata = replace(metadata, pool_share=shares)  # of the pictures that are left
    metadata = replace(metadata, run=digests.of_json([metadata.run, arm.name, arm.where, arm.equal, arm.sigma_min]))
    known = {*RECORD.names, *ANNOTATION.names}
    schema = manifest_schema([name for name in table.column_names if name not in known])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, table.select(schema.names), schema, metadata)


def _picked(table: pa.Table, arm: Arm) -> Mask:
    if arm.where is None:
        return np.ones(len(table), dtype=bool)
    if arm == CLEAN:  # without DuckDB
        return is_(table, "role", "clean")
    numbered = table.append_column("_row", pa.array(np.arange(len(table))))
    out = np.zeros(len(table), dtype=bool)
    out[matching(numbered, arm.where, "_row")] = True
    return out
