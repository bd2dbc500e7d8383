"""Choosing the clean set S_G as the user says: by folder or by predicate (by rank: ranks.py)."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..schemas.errors import UserError
from ..schemas.manifest import MAIN_ROOT
from .known import is_known, read_about
from .query import matching
from .remote import address, is_remote
from .uris import Roots, is_archive, make_uri

CLEAN_ROOT = "clean"
MIN_SET = 10  # pictures in each of the two sets


def roots_of(pool: Path, clean: Path | None = None) -> Roots:
    """Roots of a pool and of a clean set: one of its own only when that lies outside the pool.

    Raises UserError where nothing is there; what lies elsewhere is looked for later.
    """
    for path, what in ((pool, "pool"), (clean, "clean set")):
        if path is not None and not path.exists() and not is_remote(address(path)):
            raise UserError(f"there is no {what} at {path}: name a folder or an archive of pictures")
    roots = {MAIN_ROOT: address(pool)}
    if clean is not None and not clean.resolve().is_relative_to(pool.resolve()):
        roots[CLEAN_ROOT] = address(clean)
    return roots


def roots_of_pool(pool: Path, clean: Path | None = None) -> Roots:
    """As roots_of; raises UserError where the pool is a table that ambient wrote, too."""
    roots = roots_of(pool, clean)
    if pool.suffix == ".parquet" and is_known(pool):
        raise UserError(
            f"{pool} is a manifest or a table of scores, not a pool, which is at {read_about(pool)[1][MAIN_ROOT]}: "
            f"give that, with `--scores {pool}` for its scores; `ambient threshold {pool}` decides again"
        )
    return roots


def in_clean_dir(records: pa.Table, pool: Path, clean: Path, roots: Roots) -> NDArray[np.bool_]:
    """(N,) which records lie in the clean directory, inside or outside the pool."""
    if CLEAN_ROOT in roots:
        prefix = f"{CLEAN_ROOT}:"
    else:
        inside = clean.resolve().relative_to(pool.resolve()).as_posix()
        member = "" if is_archive(address(clean)) else None
        path = f"{inside}/" if member is None else inside
        prefix = "" if inside == "." else make_uri(path, member, roots=roots)
    mask: NDArray[np.bool_] = pc.starts_with(records["uri"], prefix).to_numpy(zero_copy_only=False)
    return mask


def where(records: pa.Table, predicate: str) -> NDArray[np.bool_]:
    """(N,) which records a SQL predicate over their columns picks, such as ``source = 'camera'``."""
    picked = pa.array(matching(records, predicate, "uri"), pa.string())
    mask: NDArray[np.bool_] = pc.is_in(records["uri"], value_set=picked).to_numpy(zero_copy_only=False)
    return mask


def check_split(num_clean: int, num_other: int, how: str) -> None:
    """Raise UserError where there is nothing to tell apart."""
    if num_clean == 0:
        raise UserError(f"no usable picture is clean by {how}: a classifier needs clean pictures to learn from")
    if num_other == 0:
        raise UserError(f"every usable picture is clean by {how}: nothing is left to annotate")
    if min(num_clean, num_other) < MIN_SET:
        which = "clean" if num_clean < num_other else "other"
        raise UserError(
            f"only {min(num_clean, num_other)} usable {which} pictures by {how}: at least {MIN_SET} are needed"
        )
