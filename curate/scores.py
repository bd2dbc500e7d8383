"""Cheap measures of quality without a reference, at native resolution. Higher is better.

Each takes grey (H, W) float32 in [0, 255], H and W >= 8, and returns a finite number. Neither alone tells a clean
picture: blocks look sharp, and blur has no blocks. The lower of the two ranks does.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
T = TypeVar("T", bound=np.generic)

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
# Side of the central square that is looked at: more pixels cost time and change little.
_SHARPNESS_SIDE, _BLOCKS_SIDE = 512, 256

# Filters of unit energy: one that passes the highest frequencies, one that passes those around half of that.
_HIGH = np.array([1, -4, 6, -4, 1], dtype=np.float32) / math.sqrt(70)
_MIDDLE = np.array([1, 0, -2, 0, 1], dtype=np.float32) / math.sqrt(6)
_HIGH_FLOOR, _MIDDLE_FLOOR = 0.1, 4.0  # grey levels squared; the first is about the energy of rounding to 8 bits

_BLOCK = 8
_QUANTISED = 4  # coefficients of the block transform, from this one on, that JPEG is likely to have set to zero
_ENERGY_FLOOR = 0.04  # grey levels squared
_SPREAD_FLOOR = 0.05
_CHANCE = 6.0  # evidence that pictures without blocks reach by chance and by their texture


def sharpness(grey: F32) -> float:
    """Log ratio of the energy at the highest frequencies to that at middle ones, in rows and columns.

    Blur takes more from the highest than from the middle, whatever the contrast; both floors keep rounding noise in
    smooth pictures from passing for detail, so that a flat picture scores log(0.1 / 4), the less the more is smooth.
    """
    grey = _central(grey, _SHARPNESS_SIDE)
    high = _energy(grey, _HIGH) + _energy(grey.T, _HIGH)
    middle = _energy(grey, _MIDDLE) + _energy(grey.T, _MIDDLE)
    return math.log(high / 2 + _HIGH_FLOOR) - math.log(middle / 2 + _MIDDLE_FLOOR)


def unblocked(grey: F32) -> float:
    """Minus the evidence for a JPEG block grid at any offset; 0 where there is no more than chance gives.

    On the right grid the transform of each block is full of zeros, one pixel beside it is not: the log energy of the
    upper coefficients of the 8-point DCT (type II) is averaged for each of the 8 offsets, and the evidence is how far
    the lowest lies below the others, in their standard deviations, summed over rows and columns. A flat picture: 0.
    """
    grey = _central(grey, _BLOCKS_SIDE)
    return min(0.0, _CHANCE - _grid_evidence(grey) - _grid_evidence(grey.T))


SCORES: dict[str, Callable[[F32], float]] = {"sharpness": sharpness, "unblocked": unblocked}
"""Column of the manifest -> measure."""


def score(pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Every measure of a picture. pixels: (H, W, 3) uint8 RGB; at most its central 512 x 512 are looked at."""
    grey = _central(pixels, _SHARPNESS_SIDE) @ _LUMA
    return {name: measure(grey) for name, measure in SCORES.items()}


def _central(pixels: npt.NDArray[T], side: int) -> npt.NDArray[T]:
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _energy(grey: F32, taps: F32) -> float:
    """Mean square of grey filtered along its rows, where the filter fits."""
    length = grey.shape[1] - len(taps) + 1
    out = sum(tap * grey[:, i : i + length] for i, tap in enumerate(taps) if tap)
    return float(np.mean(np.square(out)))


def _grid_evidence(grey: F32) -> float:
    """How many standard deviations the lowest of the offsets' log energies along the rows lies below the others."""
    energies = np.sort([_log_energy(grey[:, offset:]) for offset in range(min(_BLOCK, grey.shape[1] - _BLOCK + 1))])
    if len(energies) < _BLOCK:
        return 0.0  # too narrow for every offset
    others = energies[1:]
    return float((others.mean() - energies[0]) / (others.std() + _SPREAD_FLOOR))


def _log_energy(grey: F32) -> float:
    """Mean log energy of the upper DCT coefficients over the blocks of 8 that each row is cut into."""
    height, blocks = grey.shape[0], grey.shape[1] // _BLOCK
    coefficients = grey[:, : blocks * _BLOCK].reshape(height * blocks, _BLOCK) @ _UPPER_DCT
    energy = np.square(coefficients) @ _MEAN  # several times faster than mean(axis=1) over so few
    return float(np.log(energy + _ENERGY_FLOOR).mean())


def _dct_basis() -> F32:
    """(8, 8) orthonormal DCT-II; a row of pixels times it gives the coefficients."""
    position, frequency = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None, :]
    basis = np.cos(math.pi * (2 * position + 1) * frequency / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    basis[:, 0] /= math.sqrt(2)
    return basis.astype(np.float32)


_UPPER_DCT = _dct_basis()[:, _QUANTISED:]
_MEAN = np.full(_BLOCK - _QUANTISED, 1 / (_BLOCK - _QUANTISED), dtype=np.float32)
