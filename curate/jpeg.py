"""Was this picture ever a JPEG, whatever file it is in now, and how strongly was it compressed?

JPEG rounds each coefficient of the 8 x 8 block DCT to a multiple of a step. That leaves two traces on the grid of the
blocks, and on no grid shifted against it: coefficients that are exactly zero, and others at multiples of the step
(Fan and de Queiroz, "Identification of bitmap compression history", IEEE TIP 12(2), 2003). All 64 places of the grid
are looked at, since cropping shifts it. Evidence is counted in nats, so that it means the same for any size.
"""

import math
from functools import cache

import numpy as np

from .windows import F32, GRID

NOT_COMPRESSED = 100.0

# Annex K of the JPEG standard, table K.1: rows are vertical frequencies.
_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_QUALITIES = np.arange(4, 99)
_WINDOWS, _STEP_WINDOWS = 6, 3  # at most; for the steps, which need fewer
_LOW = 4  # frequencies in each direction from which steps are read
_ZERO = 0.6  # grey levels: rounding to 8 bits moves a coefficient by 0.2, of grey pictures by 0.3
_BORDER, _SPREAD = 60.0, 3.0  # nats where a grid is as likely as not; of photographs without one, 1 in 200 reaches 55
_ZEROS_WEIGHT = 0.3  # of the zeros of one block, beside the steps: where colours are clipped, too few are zero
_EXPONENT_LIMIT = 30.0


def jpeg_quality(grey: F32) -> float:
    """Quality, on libjpeg's scale of 1 to 100, of the JPEG compression that shows in a picture; 100: none shows.

    grey: (N, h, w) windows that begin at multiples of 8 of one picture, in grey levels. Sides under 15 show nothing.
    Steps of other tables than libjpeg's count as the quality whose steps they resemble. Where the evidence is weak
    the result lies between: 100 - P(there is a grid) (100 - the quality found), rounded to 0.1, so that next to no
    evidence is none.
    """
    if min(grey.shape[1:]) < 2 * GRID - 1:
        return NOT_COMPRESSED
    picked = grey[np.linspace(0, len(grey) - 1, min(len(grey), _WINDOWS)).round().astype(int)]
    sizes = np.abs(_coefficients(picked))
    evidence, place = _grid_evidence(sizes < _ZERO)
    exponent = (evidence - _BORDER) / _SPREAD
    if exponent < -_EXPONENT_LIMIT:
        return NOT_COMPRESSED
    weight = 1 / (1 + math.exp(-min(_EXPONENT_LIMIT, exponent)))
    return round(NOT_COMPRESSED - weight * (NOT_COMPRESSED - _quality(sizes, place)), 1)


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
    out: F32 = np.matmul(np.matmul(down, grey), across.T)
    return out.reshape(len(grey), GRID, -1, GRID, GRID, len(across) // GRID**2, GRID)


@cache
def _transform(length: int) -> F32:
    """(frequencies * blocks * 8, length): the DCT along a side, at each of the 8 offsets of the grid."""
    blocks, basis = (length - GRID + 1) // GRID, dct_basis()
    rows: F32 = np.zeros((GRID, blocks * GRID, length), dtype=np.float32)
    for frequency in range(GRID):
        for start in range(blocks * GRID):
            rows[frequency, start, start : start + GRID] = basis[:, frequency]
    return rows.reshape(-1, length)


def _grid_evidence(zero: np.ndarray) -> tuple[float, int]:
    """(evidence in nats, place of the grid as 8 y + x): that there are more zeros than at the other places.

    The log likelihood ratio of binomial counts with their own share of zeros and with that of all places, summed over
    the frequencies; fewer zeros than elsewhere count against. zero: bool, as _coefficients.
    """
    by_window = zero.view(np.uint8).sum(axis=0, dtype=np.uint8)  # fits: few windows
    by_block = by_window.sum(axis=1, dtype=np.uint8).sum(axis=3, dtype=np.uint8)  # (v, 8, u, 8)
    counts = by_block.transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)[1:].astype(np.int64)
    total = len(zero) * zero.shape[2] * zero.shape[5]
    usual = (counts.sum(axis=1, keepdims=True) + 0.5) / (total * GRID * GRID + 1)
    here = (counts + 0.5) / (total + 1)
    ratio = counts * np.log(here / usual) + (total - counts) * np.log((1 - here) / (1 - usual))
    evidence = (np.sign(here - usual) * ratio).sum(axis=0)
    place = int(evidence.argmax())
    return float(evidence[place]), place


def _quality(sizes: F32, place: int) -> float:
    """The quality whose steps the coefficients of a grid show. sizes: absolute values, as _coefficients."""
    on_grid = sizes.transpose(3, 6, 1, 4, 0, 2, 5)[place // GRID, place % GRID]
    usual = sizes.mean(axis=(0, 2, 3, 5, 6))
    some = on_grid[:_LOW, :_LOW, :: -(-len(sizes) // _STEP_WINDOWS)].reshape(_LOW * _LOW, -1, 1)[1:]
    evidence = _steps_evidence(some) + _ZEROS_WEIGHT * _zeros_evidence(on_grid.reshape(GRID * GRID, -1), usual)
    return float(_QUALITIES[int(evidence.argmax())])


def _steps_evidence(sizes: F32) -> np.ndarray:
    """(qualities,) in nats: of which quality's steps the coefficients that are not zero are multiples.

    sizes: (15, M, 1) of the lowest frequencies. The sum of cos(2 pi size / step) over sizes above half a step, in its
    standard deviations were the sizes spread at random; half its square.
    """
    steps = _steps().reshape(GRID, GRID, -1)[:_LOW, :_LOW].reshape(_LOW * _LOW, 1, -1)[1:]
    multiples = sizes / steps
    above = multiples > 0.5
    waves = np.cos(2 * math.pi * multiples) * above
    deviations = waves.sum(axis=(0, 1)) / np.sqrt(above.sum(axis=(0, 1)) / 2 + 2)
    out: np.ndarray = np.square(np.maximum(deviations, 0)) / 2
    return out


def _zeros_evidence(sizes: F32, usual: F32) -> np.ndarray:
    """(qualities,) in nats per block: of which quality's steps so many zeros come.

    sizes: (64, blocks). usual: (8, 8) mean size on all grids; the law of sizes is taken to be exponential.
    """
    share = 1 - np.exp(-np.maximum(_steps() / 2, _ZERO) / (usual.reshape(-1, 1) + 0.05))
    share = share.clip(0.01, 0.99)[1:]
    zeros = (sizes < _ZERO).mean(axis=1)[1:, None]
    out: np.ndarray = (zeros * np.log(share) + (1 - zeros) * np.log(1 - share)).sum(axis=0)
    return out


@cache
def _steps() -> F32:
    """(64, qualities): libjpeg's steps in raster order."""
    scale = np.where(_QUALITIES < 50, 5000 // _QUALITIES, 200 - 2 * _QUALITIES)
    out: F32 = np.clip((_TABLE.reshape(-1, 1) * scale + 50) // 100, 1, 255).astype(np.float32)
    return out
