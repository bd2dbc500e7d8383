"""What the built-in measures look at: windows of at most 32 x 32 pixels, spread evenly over a picture.

However large the picture, at most 64 of them: 65,536 pixels say as much about its quality as all of them do, and are
looked at in a tenth of the time. They begin at multiples of 8, so that the grid of a JPEG lies alike in all of them.
"""

import math

import numpy as np
import numpy.typing as npt

from .images import U8

F32 = npt.NDArray[np.float32]

SIDE = 32
GRID = 8  # side of JPEG's blocks
_STRIDE = 24  # at least: windows that lie closer would show some blocks twice
_MOST = 8  # windows along one side

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
CHROMA = np.array([-0.5, 1, -0.5], dtype=np.float32) / math.sqrt(1.5)  # unit energy: white noise keeps its deviation


def windows(pixels: U8) -> U8:
    """(N, h, w, 3) uint8: up to 64 windows of (H, W, 3), h = min(H, 32), w = min(W, 32); neighbours may overlap."""
    height, width = (min(SIDE, length) for length in pixels.shape[:2])
    top, left = starts(pixels.shape[0]), starts(pixels.shape[1])
    rows = (top[:, None] + np.arange(height)).ravel()
    columns = (left[:, None] + np.arange(width)).ravel()
    picked = pixels.take(rows, axis=0).take(columns, axis=1)
    picked = picked.reshape(len(top), height, len(left), width, 3).transpose(0, 2, 1, 3, 4)
    return picked.reshape(-1, height, width, 3)


def starts(length: int) -> npt.NDArray[np.int64]:
    """Where windows begin along a side of this many pixels: multiples of 8, evenly spread, the first at 0."""
    if length <= SIDE:
        return np.zeros(1, dtype=np.int64)
    count = min(_MOST, (length - SIDE) // _STRIDE + 1)
    return np.arange(count) * (length - SIDE) // max(count - 1, 1) // GRID * GRID


def plane(pixels: U8 | F32, weights: F32) -> F32:
    """(N, h, w) float32: a weighted sum of red, green and blue, in grey levels."""
    out: F32 = pixels.astype(np.float32, copy=False) @ weights
    return out
