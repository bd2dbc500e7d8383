"""Arrow columns to and from numpy."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Rows = NDArray[Any]


def is_(table: pa.Table, column: str, value: str) -> Rows:
    """(N,) bool: where a column of words holds this one."""
    mask: Rows = pc.equal(table[column].cast(pa.string()), value).to_numpy()
    return mask


def words(table: pa.Table, column: str) -> Rows:
    """(N,) the words of a column, plain or dictionary."""
    return np.array(table[column].cast(pa.string()).to_pylist(), dtype=object)


def lists(values: Rows, kind: pa.DataType) -> pa.Array:
    """(N, L) numbers as N lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()).cast(kind, safe=False))


def matrix(column: pa.ChunkedArray, levels: int) -> Rows:
    """(N, L) float64 of a column of lists of L numbers, none of them null."""
    flat: Rows = pc.list_flatten(column).to_numpy().astype(np.float64)
    return flat.reshape(len(column), levels)


def spread(values: pa.Array, mask: Rows) -> pa.Array:
    """Values at the places where mask holds, null elsewhere."""
    return values.take(pa.array(np.cumsum(mask) - 1, mask=~mask))


def vectors(values: Rows) -> pa.Array:
    """(N, D) numbers as N lists of D float32; null where one of them is not finite."""
    missing = pa.array(~np.isfinite(values).all(axis=1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1], mask=missing)
