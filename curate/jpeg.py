"""Was this picture ever a JPEG, whatever file it is in now, and how strongly was it compressed?

JPEG rounds each coefficient of the 8 x 8 block DCT to a multiple of a step. That leaves two traces on the grid of the
blocks, and on no grid shifted against it: coefficients that are exactly zero, and others at multiples of the step
(Fan and de Queiroz, "Identification of bitmap compression history", IEEE TIP 12(2), 2003). All 64 places of the grid
are looked at, since cropping shifts it.
"""

import math
from functools import cache

import numpy as np

from .windows import F32, GRID

NOT_COMPRESSED = 100.0

# Annex K of the JPEG standard, table K.1, frequencies 0 to 2: rows are vertical frequencies.
_TABLE = np.array([[16, 11, 10], [12, 12, 14], [14, 13, 16]])
_QUALITIES = np.arange(4, 97)
_FREQUENCIES = (0, 1, 2, 4)  # in each direction; the steps are read from the lowest three
_LOW = 3
_WINDOWS, _STEP_WINDOWS = 25, 13  # at most; for the steps, which need fewer
_ZERO = 0.75  # grey levels: rounding to 8 bits moves a coefficient by about a third of one
_CLEAR = 3.0  # standard deviations that show a step
_NEARLY = 0.95
_BORDER, _SPREAD = 24.0, 2.0  # evidence where a grid is as likely as not; photographs without one reach 20
_EXPONENT_LIMIT = 30.0


def jpeg_quality(grey: F32) -> float:
    """Quality, on libjpeg's scale of 1 to 100, of the JPEG compression that shows in a picture; 100: none shows.

    grey: (N, h, w) windows that begin at multiples of 8 of one picture, in grey levels. Sides under 15 show nothing.
    Steps of other tables than libjpeg's count as the quality whose steps they resemble. Where the evidence is weak
    the result lies between: 100 - P(there is a grid) (100 - the quality found).
    """
    if min(grey.shape[1:]) < 2 * GRID - 1:
        return NOT_COMPRESSED
    picked = grey[np.linspace(0, len(grey) - 1, min(len(grey), _WINDOWS)).round().astype(int)]
    coefficients = _coefficients(picked)
    zeros, place = _grid_evidence(np.abs(coefficients) < _ZERO)
    some = coefficients[:: -(-len(picked) // _STEP_WINDOWS)]
    quality, steps = _steps_evidence(np.abs(some[:, :_LOW, :, place // GRID, :_LOW, :, place % GRID]))
    # Steps alone are no evidence: in a drawing whole areas can have one and the same coefficient.
    evidence = (zeros + 2 * min(steps, zeros) - _BORDER) / _SPREAD
    weight = 1 / (1 + math.exp(-max(-_EXPONENT_LIMIT, min(_EXPONENT_LIMIT, evidence))))
    return NOT_COMPRESSED - weight * (NOT_COMPRESSED - quality)


def dct_basis(side: int = GRID) -> F32:
    """(side, side) orthonormal DCT-II; a row of pixels times it gives the coefficients."""
    position, frequency = np.arange(side)[:, None], np.arange(side)[None, :]
    basis = np.cos(math.pi * (2 * position + 1) * frequency / (2 * side)) * math.sqrt(2 / side)
    basis[:, 0] /= math.sqrt(2)
    out: F32 = basis.astype(np.float32)
    return out


def _coefficients(grey: F32) -> F32:
    """(N, v, blocks, 8, u, blocks, 8): coefficient (v, u) of each block of each of the 8 x 8 grids."""
    down, across = _transform(grey.shape[1]), _transform(grey.shape[2])
    count = len(_FREQUENCIES)
    out: F32 = np.matmul(np.matmul(down, grey), across.T)
    return out.reshape(len(grey), count, -1, GRID, count, len(across) // (count * GRID), GRID)


@cache
def _transform(length: int) -> F32:
    """(frequencies * blocks * 8, length): the DCT along a side, at each of the 8 offsets of the grid."""
    blocks, basis = (length - GRID + 1) // GRID, dct_basis()
    rows: F32 = np.zeros((len(_FREQUENCIES), blocks * GRID, length), dtype=np.float32)
    for index, frequency in enumerate(_FREQUENCIES):
        for start in range(blocks * GRID):
            rows[index, start, start : start + GRID] = basis[:, frequency]
    return rows.reshape(-1, length)


def _grid_evidence(zero: np.ndarray) -> tuple[float, int]:
    """(evidence, place of the grid as 8 y + x): how many more zeros than at the other places, in their deviations.

    Summed over the frequencies, each as a binomial count; one more in the variance keeps rare zeros from counting.
    """
    by_window = zero.view(np.uint8).reshape(len(zero), -1).sum(axis=0, dtype=np.uint8)  # fits: 25 windows
    counts = by_window.reshape(zero.shape[1:]).sum(axis=(1, 4), dtype=np.int64)  # (v, 8, u, 8)
    counts = counts.transpose(0, 2, 1, 3).reshape(-1, GRID * GRID)[1:]  # without the mean
    total = len(zero) * zero.shape[2] * zero.shape[5]
    share = counts.mean(axis=1, keepdims=True) / total
    evidence = ((counts - share * total) / np.sqrt(total * share * (1 - share) + 1)).sum(axis=0)
    place = int(evidence.argmax())
    return float(evidence[place]), place


def _steps_evidence(sizes: F32) -> tuple[float, float]:
    """(quality, evidence): of which quality's steps the coefficients that are not zero are multiples.

    sizes: (N, v, blocks, u, blocks) absolute coefficients on the grid. The evidence of a quality is the sum of
    cos(2 pi size / step) over sizes above half a step, in its standard deviations were the sizes spread at random.
    Half the right steps fit as well: of the qualities that fit nearly best, the lowest. If none does, nothing is left
    but zeros: the lowest of all.
    """
    sizes = sizes.transpose(1, 3, 0, 2, 4).reshape(_LOW * _LOW, -1, 1)[1:]
    multiples = sizes / _steps()
    above = multiples > 0.5
    score = (np.cos(2 * math.pi * multiples) * above).sum(axis=(0, 1)) / np.sqrt(above.sum(axis=(0, 1)) / 2 + 2)
    best = float(score.max())
    index = int(np.flatnonzero(score >= _NEARLY * best)[0]) if best > _CLEAR else 0
    return float(_QUALITIES[index]), best


@cache
def _steps() -> F32:
    """(8, 1, qualities): libjpeg's steps of the lowest frequencies, without the mean."""
    scale = np.where(_QUALITIES < 50, 5000 // _QUALITIES, 200 - 2 * _QUALITIES)
    steps = np.clip((_TABLE.reshape(-1, 1, 1)[1:] * scale + 50) // 100, 1, 255)
    out: F32 = steps.astype(np.float32)
    return out
