"""The groups of a pool that a classifier is told: sources, as far as they are large enough."""

from collections import Counter

import numpy as np

from .columns import Rows

_GROUPS = 16  # the most groups
_SMALLEST_GROUP, _SMALLEST_SHARE = 20, 1 / 400  # for one of one's own, so that each half of the pool has some of it


def groups_of(sources: Rows) -> tuple[str, ...]:
    """Names of the groups that the classifier tells apart: the largest sources, and one for what is left, named ``""``.

    sources: (N,) of the usable pictures that are not clean.
    """
    counts = Counter(sources.tolist()).most_common()
    smallest = max(_SMALLEST_GROUP, len(sources) * _SMALLEST_SHARE)
    large = [source for source, count in counts[: _GROUPS - 1] if count >= smallest]
    left = sum(count for source, count in counts if source not in large)
    rest = [""] if left >= smallest or not large else []  # a few strays count as the last group's
    return (*sorted(large), *rest)


def numbers_of(sources: Rows, groups: tuple[str, ...]) -> Rows:
    """(N,) the number of each source's group; the last stands for every name that is not listed."""
    number = {name: i for i, name in enumerate(groups)}
    return np.array([number.get(source, len(groups) - 1) for source in sources], dtype=np.int64)
