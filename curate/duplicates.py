"""Pictures that look the same: perceptual hashes, and for each picture the earlier one that it repeats."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from .images import U8

NAMES = ("phash", "near_duplicate_of")
DISTANCE = 3
"""Bits of 64 in which near duplicates may differ: one less than the bands, so that some band is equal."""

_BANDS = 4  # of 16 bits
_CELLS = 2**22  # pairs compared at a time, which bounds memory


_FLAT = 4  # grey levels between the darkest and the brightest place


def phash(pixels: U8) -> str | None:
    """64-bit perceptual hash in 16 hex digits: signs of low frequencies, by the library imagehash. (H, W, 3) uint8.

    None for a flat picture: its hash would be the same as that of any other.
    """
    import imagehash

    grey = pixels.mean(axis=2)
    if np.ptp(grey) < _FLAT:
        return None
    return str(imagehash.phash(Image.fromarray(pixels)))


def near_duplicates(hashes: pa.ChunkedArray) -> NDArray[np.int64]:
    """(N,) for each hash the index of the first that is the same within DISTANCE bits, through others if need be.

    -1 for the first of its kind and for null. Hashes of hex digits.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = np.flatnonzero(np.array([value is not None for value in hashes.to_pylist()], dtype=bool))
    values = np.array([int(value, 16) for value in hashes.drop_null().to_pylist()], dtype=np.uint64)
    first, second = _close(values)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(values), len(values)))
    _, group = connected_components(graph, directed=False)
    leader = np.full(group.max(initial=-1) + 1, len(values))
    np.minimum.at(leader, group, np.arange(len(values)))
    out = np.full(len(hashes), -1, dtype=np.int64)
    follows = leader[group] != np.arange(len(values))
    out[known[follows]] = known[leader[group][follows]]
    return out


def _close(values: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs within DISTANCE bits, some of them twice; of equal hashes, each with the next only."""
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    distinct, index = np.unique(values, return_inverse=True)
    order = np.argsort(index, kind="stable")
    same = index[order][1:] == index[order][:-1]
    pairs.append((order[:-1][same], order[1:][same]))
    example = np.zeros(len(distinct), dtype=np.int64)
    example[index] = np.arange(len(values))
    for band in range(_BANDS):
        key = (distinct >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        cuts = [0, *(np.flatnonzero(np.diff(key[order])) + 1).tolist(), len(order)]
        for start, stop in pairwise(cuts):
            if stop - start > 1:
                for i, j in _close_rows(distinct[order[start:stop]]):
                    pairs.append((example[order[start + i]], example[order[start + j]]))
    return np.concatenate([i for i, _ in pairs]), np.concatenate([j for _, j in pairs])


def _close_rows(values: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs i < j within DISTANCE bits, some rows of the matrix of all distances at a time."""
    rows = max(1, _CELLS // len(values))
    for start in range(0, len(values), rows):
        rest = values[start:]
        close = np.bitwise_count(rest[:rows, None] ^ rest[None, :]) <= DISTANCE
        i, j = np.nonzero(np.triu(close, 1))
        yield start + i, start + j
