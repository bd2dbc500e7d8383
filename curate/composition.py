"""How much of what is trained on at each noise level may come from outside the clean set."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.manifest import SAID
from ..schemas.usable import BETA, usable
from .columns import Rows, is_, matrix

_LEAST = 0.01  # of p_clean and of 1 - p_clean: curves of a few draws claim no more


def pool_share(table: pa.Table, grid: Rows, parts: Iterable[pa.Table]) -> list[float]:
    """At each level the sum, over the usable pictures that are not clean, of 1 / (N + M (1 - p) / p), p = p_clean.

    Of N clean pictures and M others with densities c and d at a level, each stands best for c with the weight
    c / (N c + M d), the balance heuristic of importance sampling (Veach and Guibas 1995), and d / c is (1 - p) / p.
    So where nobody can tell the two apart, at p = 1/2, all pictures count alike; where some of the others are truly
    clean, these count as much as the clean set does there; and where few look clean by chance, they take the place of
    few. What is missing to 1 is left to the clean set. No more than M / (N + M), which it cannot exceed but by chance.

    table: a manifest's rows with their thresholds; grid: (L,) noise levels; parts: tables with the columns row and
    p_clean. Returns L shares; none where there is no clean picture, nothing else, a picture without a curve, or a
    threshold by somebody's word.
    """
    ok, clean = is_(table, "status", "ok"), is_(table, "role", "clean")
    others, num_clean = ok & ~clean, int((ok & clean).sum())
    num, said = int(others.sum()), pc.is_in(table["method"].cast(pa.string()), pa.array(SAID))
    if not num or not num_clean or pc.any(said).as_py():
        return []
    low, high = (table[name].to_numpy().astype(np.float64) for name in ("sigma_min", "sigma_max"))
    total, seen = np.zeros(len(grid)), 0
    for part in parts:
        mine = part.filter(pa.array(others[part["row"].to_numpy()]))
        mine = mine.filter(pc.equal(pc.list_value_length(mine["p_clean"]), len(grid)))
        rows, p = mine["row"].to_numpy(), matrix(mine["p_clean"], len(grid)).clip(_LEAST, 1 - _LEAST)
        may = usable(grid[None], low[rows, None], high[rows, None], BETA)
        total += np.where(may, 1 / (num_clean + num * (1 - p) / p), 0.0).sum(axis=0)
        seen += len(rows)
    shares: list[float] = np.minimum(total, num / (num + num_clean)).tolist()
    return shares if seen == num else []
