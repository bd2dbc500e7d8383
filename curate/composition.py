"""How much of what is trained on at each noise level may come from outside the clean set."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.manifest import SAID
from ..schemas.usable import BETA, usable
from .columns import Rows, is_, matrix
from .groups import groups_of, numbers_of

_LEAST = 0.01  # of p_clean and of 1 - p_clean: curves of a few draws claim no more


def pool_share(table: pa.Table, grid: Rows, parts: Iterable[pa.Table]) -> list[float]:
    """What the usable pictures that are not clean stand for of the clean density at each level.

    Of N clean pictures and M others with densities c and d at a level, each stands best for c with the weight
    c / (N c + M d), the balance heuristic of importance sampling (Veach and Guibas 1995), and d / c is (1 - p) / p with
    p = p_clean. So where nobody can tell the two apart, at p = 1/2, all pictures count alike; where some of the others
    are truly clean, these count as much as the clean set does there; and where few look clean by chance, they take the
    place of few. The weights of the others add up to S = sum 1 / (N + M (1 - p) / p), at most M / (N + M), which it
    cannot exceed but by chance; what is missing to 1 is left to the clean set.

    p compares a picture with its own group, so M is that of the group, and the odds S / (1 - S) of the groups add up,
    as they do where no two groups look alike, or all as the clean set. Groups are sources; those of damage, which are
    found where there is one source, are not known here and count as one, which is careful.

    table: a manifest's rows with their thresholds; grid: (L,) noise levels; parts: tables with the columns row and
    p_clean. Usable is meant as with the default buffer. Returns L shares in [0, 1); none where there is no clean
    picture, nothing else, a picture without a curve, or a threshold by somebody's word.
    """
    ok, clean = is_(table, "status", "ok"), is_(table, "role", "clean")
    others, num_clean = ok & ~clean, int((ok & clean).sum())
    said = pc.is_in(table["method"].cast(pa.string()), pa.array(SAID))
    if not others.any() or not num_clean or pc.any(said).as_py():
        return []
    found = table["source"].filter(pa.array(others)).cast(pa.string()).combine_chunks().dictionary_encode()
    sources = np.array(found.dictionary.to_pylist(), dtype=object)[found.indices.to_numpy()]
    names = groups_of(sources)
    group = np.zeros(len(table), dtype=np.int64)
    group[others] = numbers_of(sources, names)
    num = np.bincount(group[others], minlength=len(names))
    low, high = (table[name].to_numpy().astype(np.float64) for name in ("sigma_min", "sigma_max"))
    total, seen = np.zeros((len(names), len(grid))), 0
    for part in parts:
        mine = part.filter(pa.array(others[part["row"].to_numpy()]))
        mine = mine.filter(pc.equal(pc.list_value_length(mine["p_clean"]), len(grid)))
        rows, p = mine["row"].to_numpy(), matrix(mine["p_clean"], len(grid)).clip(_LEAST, 1 - _LEAST)
        may = usable(grid[None], low[rows, None], high[rows, None], BETA)
        weights = np.where(may, 1 / (num_clean + num[group[rows], None] * (1 - p) / p), 0.0)
        np.add.at(total, group[rows], weights)  # row by row: the same to the last bit however the curves are cut
        seen += len(rows)
    total = np.minimum(total, (num / (num + num_clean))[:, None])
    odds = (total / (1 - total)).sum(axis=0)
    shares: list[float] = (odds / (1 + odds)).tolist()
    return shares if seen == others.sum() else []
