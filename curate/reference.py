"""Choosing the clean set S_G: what the user says, or the best by two measures at once when nothing is said."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..schemas.errors import UserError
from ..schemas.manifest import MAIN_ROOT
from .query import matching
from .remote import address
from .uris import Roots, is_archive, make_uri

CLEAN_ROOT = "clean"
DEFAULT_SHARE = 0.1
DEFAULT_SCORES = ("sharpness", "unblocked")


def roots_of(pool: Path, clean: Path | None) -> Roots:
    """Roots of a pool and of a clean set: one of its own only when that lies outside the pool."""
    roots = {MAIN_ROOT: address(pool)}
    if clean is not None and not clean.resolve().is_relative_to(pool.resolve()):
        roots[CLEAN_ROOT] = address(clean)
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


def best_by_ranks(records: pa.Table, share: float = DEFAULT_SHARE) -> NDArray[np.bool_]:
    """(N,) the top share of the usable records by the minimum of their ranks in sharpness and in absence of blocks.

    One measure is not enough: JPEG blocks look sharp, and a smooth blur has no blocks.
    """
    ok = pc.equal(records["status"].cast(pa.string()), "ok").to_numpy(zero_copy_only=False)
    scores = [records[name].to_numpy(zero_copy_only=False) for name in DEFAULT_SCORES]
    worst = np.minimum.reduce([rank(score[ok]) for score in scores])
    count = max(1, round(share * int(ok.sum())))
    order = np.lexsort((np.arange(len(worst)), -worst))  # ties: the earlier record
    mask = np.zeros(len(ok), dtype=bool)
    mask[np.flatnonzero(ok)[order[:count]]] = True
    return mask


def rank(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of the scores that are no higher than each, in (0, 1]: the best gets 1; equal scores share the best rank.

    A measure that calls many pictures equally good, as ``unblocked`` does, must not hold them back. NaN gets 0.
    """
    from scipy.stats import rankdata

    missing = np.isnan(scores)
    ranks: NDArray[np.float64] = rankdata(np.where(missing, -np.inf, scores), method="max") / max(len(scores), 1)
    return np.where(missing, 0.0, ranks)


def check_split(num_clean: int, num_other: int, how: str) -> None:
    """Raise UserError where there is nothing to tell apart."""
    if num_clean == 0:
        raise UserError(f"no usable picture is clean by {how}: a classifier needs clean pictures to learn from")
    if num_other == 0:
        raise UserError(f"every usable picture is clean by {how}: nothing is left to annotate")
    if min(num_clean, num_other) < 10:
        which = "clean" if num_clean < num_other else "other"
        raise UserError(f"only {min(num_clean, num_other)} usable {which} pictures by {how}: at least 10 are needed")
