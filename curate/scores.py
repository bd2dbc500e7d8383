"""Cheap measures of quality without a reference, at native resolution, and what they say together.

All look at the windows of ``windows.py``: neither time nor memory grows with the picture.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from .images import U8
from .jpeg import dct_basis, jpeg_quality
from .windows import CHROMA, F32, GRID, LUMA, plane, windows


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What a score column says. better: ``high``, ``low``, or None when neither end is the good one."""

    better: str | None
    meaning: str


SCORES = {
    "undamaged": Measure(better="high", meaning="log odds of a picture without blur, blocks and noise"),
    "sharpness": Measure(better="high", meaning="log energy at the highest frequencies to that at middle ones"),
    "coarse_sharpness": Measure(better="high", meaning="the same at half the size, which strong blur lowers further"),
    "diagonal_sharpness": Measure(better="high", meaning="the same along the diagonals, which mild blur lowers first"),
    "resolution": Measure(better="high", meaning="pixels on the short side that would hold what it shows"),
    "jpeg_quality": Measure(better="high", meaning="quality of the JPEG compression that shows; 100: none"),
    "noise": Measure(better="low", meaning="standard deviation of its noise in grey levels; fine texture counts too"),
    "chroma_noise": Measure(better="low", meaning="the same of the difference between green and the other colours"),
    "brightness": Measure(better=None, meaning="mean grey level, 0 to 255"),
    "contrast": Measure(better="high", meaning="standard deviation of grey levels"),
    "entropy": Measure(better="high", meaning="entropy of the histogram of grey levels in bits, 0 to 8"),
    "clipped": Measure(better="low", meaning="share of the values of red, green and blue that are 0 or 255"),
}
"""Columns of every record: the built-in measures."""

COMBINED = ("sharpness", "coarse_sharpness", "diagonal_sharpness", "jpeg_quality", "noise", "chroma_noise")
"""What ``undamaged`` is made of."""

# Filters of unit energy: one that passes the highest frequencies, one that passes those around half of that.
_HIGH = np.array([1, -4, 6, -4, 1], dtype=np.float32) / math.sqrt(70)
_MIDDLE = np.array([1, 0, -2, 0, 1], dtype=np.float32) / math.sqrt(6)
_HIGH_FLOOR, _MIDDLE_FLOOR = 0.1, 4.0  # grey levels squared; the first is about the energy of rounding to 8 bits

_HIGHEST, _MIDDLE_ONES = (6, 7), (3, 4)  # frequencies of the 8 x 8 block DCT in each direction
_DIAGONAL_FLOOR, _DIAGONAL_MIDDLE_FLOOR = 0.05, 1.0  # grey levels squared
_DIAGONAL_WEIGHT = 0.7  # of the middle: less than 1, since strong texture is rich in both

_NOISE_SHARE = 0.1  # of the blocks: the smoothest, in which texture hides the noise least
_CHI2_QUANTILE = 0.265906  # 0.1-quantile of the mean of 4 squared standard normals

_POWER_LAW = 2.5  # P(f) ~ f^-2.5: steeper than most photographs, so that only what is missing is called missing
_PRESENT = 0.1  # of the power law
_POWER_FLOOR = 1.0  # grey levels squared

_NOISE_FLOOR = 0.05  # grey levels squared

_HALF_STEP = 5e-4  # grey is a multiple of 0.001: 199 that a processor's rounding made 198.99998 stays level 199


def score(pixels: U8) -> dict[str, float]:
    """Every built-in measure of a picture: finite numbers under the names of SCORES. pixels: (H, W, 3) uint8 RGB."""
    looked_at = windows(pixels)
    colours = looked_at.astype(np.float32)
    grey, chroma = plane(colours, LUMA), plane(colours, CHROMA)
    levels = (grey + _HALF_STEP).astype(np.uint8)
    histogram = np.bincount(levels.ravel(), minlength=256) / grey.size
    values = {
        "sharpness": sharpness(grey),
        "coarse_sharpness": sharpness(_halved(grey)),
        "diagonal_sharpness": diagonal_sharpness(grey),
        "resolution": present(grey) * min(pixels.shape[:2]),
        "jpeg_quality": jpeg_quality(grey),
        "noise": noise(grey),
        "chroma_noise": noise(chroma),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "entropy": float(-(histogram * np.log2(np.maximum(histogram, 1e-12))).sum()),
        "clipped": (np.count_nonzero(looked_at == 0) + np.count_nonzero(looked_at == 255)) / looked_at.size,
    }
    return {"undamaged": undamaged(values), **values}


def undamaged(values: dict[str, float]) -> float:
    """Log odds that a picture has no damage, from the measures named in COMBINED.

    Each measure gives the odds of "undamaged" against its own damage; all are taken as equally likely beforehand, so
    the odds against any of them are 1 / sum_k exp(-l_k): about those of the worst.
    """
    evidence = [slope * (value - zero) for value, (slope, zero) in zip(evidences(values), CALIBRATION, strict=True)]
    return -float(np.logaddexp.reduce([-value for value in evidence]))


def evidences(values: dict[str, float]) -> tuple[float, ...]:
    """What the odds are linear in: sharpness of three kinds, logs of noise and of JPEG's steps; higher is better."""
    quality = values["jpeg_quality"]
    ratio = max((100 - quality) / 50, 0.02) if quality >= 50 else 50 / max(quality, 1.0)
    return (
        values["sharpness"],
        values["coarse_sharpness"],
        values["diagonal_sharpness"],
        -math.log(ratio),
        -math.log(values["noise"] ** 2 + _NOISE_FLOOR),
        -math.log(values["chroma_noise"] ** 2 + _NOISE_FLOOR),
    )


CALIBRATION = ((3.2, -2.8), (3.6, -2.7), (4.0, -2.6), (4.0, 1.2), (2.4, -3.35), (2.9, -1.6))
"""(slope, zero) of each of ``evidences``: log odds = slope * (evidence - zero).

Fitted by logistic regression of undamaged against damaged photographs, `python benchmarks/scores.py calibrate`; the
photographs are others than those of the tables in docs/scores.md. Only JPEG's is set by hand, since it is seen without
error: even odds at quality 85, e^-2 at 75."""


def sharpness(grey: F32) -> float:
    """Log ratio of the energy at the highest frequencies to that at middle ones, in rows and columns. (N, h, w).

    Blur and enlarging take more from the highest than from the middle, whatever the contrast; the power law of
    photographs fixes what is left of the highest. Both floors keep rounding noise in smooth pictures from passing for
    detail, so that a flat picture scores log(0.1 / 4), the less the more is smooth.
    """
    return math.log(_energy(grey, _HIGH) + _HIGH_FLOOR) - math.log(_energy(grey, _MIDDLE) + _MIDDLE_FLOOR)


def diagonal_sharpness(grey: F32) -> float:
    """Log energy at frequencies that are the highest both down and across, to that at middle ones. (N, h, w).

    Blur along rows and along columns, as a Gaussian's and that of enlarging, takes from these twice: a blur of 0.6
    pixels leaves a hundredth of their energy, of what is highest in one direction a tenth. Floors as in ``sharpness``.
    """
    highest = float(_both_ways(grey, _HIGHEST).mean()) + _DIAGONAL_FLOOR
    middle = float(_both_ways(grey, _MIDDLE_ONES).mean()) + _DIAGONAL_MIDDLE_FLOOR
    return math.log(highest) - _DIAGONAL_WEIGHT * math.log(middle)


def noise(values: F32) -> float:
    """Standard deviation of white noise, from the highest DCT coefficients of the smoothest tenth of the 8 x 8 blocks.

    (N, h, w). Of pure noise the estimate has no bias; what has no smooth place gets the energy of its finest texture
    (in the manner of Ponomarenko et al., "An automatic approach to lossy compression of AVIRIS images", 2007).
    """
    energy = _both_ways(values, _HIGHEST)
    return math.sqrt(float(np.quantile(energy, _NOISE_SHARE)) / _CHI2_QUANTILE)


def present(grey: F32) -> float:
    """Highest frequency at which the spectrum holds what a power law leads to expect, as a share of all: in (0, 1].

    (N, h, w). The law P(f) ~ f^-2.5 goes through the power at the lowest three frequencies; present is what exceeds a
    tenth of it and one grey level squared. The lesser of rows and columns. An enlarged picture has about 1 / factor.
    """
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    return min(_present_share(_power(centred)), _present_share(_power(centred.transpose(0, 2, 1))))


def _both_ways(values: F32, frequencies: tuple[int, int]) -> F32:
    """(blocks,) mean square of the DCT coefficients of each 8 x 8 block at these frequencies, both down and across."""
    down, across = (_blocks(length, frequencies) for length in values.shape[1:])
    coefficients = down.T @ (values @ across)
    each = coefficients.reshape(
        len(values), -1, len(frequencies), across.shape[1] // len(frequencies), len(frequencies)
    )
    energy: F32 = np.square(each).mean(axis=(2, 4)).ravel()
    return energy


@cache
def _blocks(length: int, frequencies: tuple[int, ...]) -> F32:
    """(length, blocks * frequencies): a row times it is the DCT of its blocks of 8 at these frequencies."""
    basis = dct_basis()[:, frequencies]
    out: F32 = np.kron(np.eye(length // GRID, dtype=np.float32), basis)
    return np.concatenate([out, np.zeros((length % GRID, out.shape[1]), dtype=np.float32)])


def _halved(grey: F32) -> F32:
    """Means of 2 x 2 pixels; windows that would be too small for the filters stay as they are."""
    height, width = (length // 2 for length in grey.shape[1:])
    if min(height, width) < len(_HIGH):
        return grey
    even = grey[:, : 2 * height, : 2 * width]
    rows: F32 = even[:, ::2] + even[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) * np.float32(0.25)


def _energy(grey: F32, taps: F32) -> float:
    """Mean square of (N, h, w) filtered along rows and along columns, where the filter fits."""
    rows = grey @ _filter(grey.shape[2], taps.tobytes())
    columns = _filter(grey.shape[1], taps.tobytes()).T @ grey
    return float(np.square(rows).mean() + np.square(columns).mean()) / 2


@cache
def _filter(length: int, taps: bytes) -> F32:
    """(length, length - taps + 1): a row times it is the row filtered."""
    values = np.frombuffer(taps, dtype=np.float32)
    matrix = np.zeros((length, length - len(values) + 1), dtype=np.float32)
    for start in range(matrix.shape[1]):
        matrix[start : start + len(values), start] = values
    return matrix


def _power(grey: F32) -> F32:
    """Mean power of the rows at 1, 2, ... cycles per row, under a Hann window of unit energy."""
    parts = np.square(grey @ _fourier(grey.shape[2])).mean(axis=(0, 1))
    out: F32 = parts.reshape(2, -1).sum(axis=0)
    return out


@cache
def _fourier(length: int) -> F32:
    position, cycles = np.arange(length)[:, None], np.arange(1, length // 2 + 1)
    window = np.hanning(length + 2)[1:-1, None]
    angle = 2 * math.pi * position * cycles / length
    basis = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * window / np.sqrt(np.square(window).sum())
    out: F32 = basis.astype(np.float32)
    return out


def _present_share(power: F32) -> float:
    cycles = np.arange(1, len(power) + 1)
    lowest = math.exp(float(np.log(power[:3] + 1e-6).mean()))
    expected = lowest * (cycles / 2.0) ** -_POWER_LAW
    found = np.flatnonzero(power > np.maximum(_PRESENT * expected, _POWER_FLOOR))
    return (int(found[-1]) + 1 if len(found) else 1) / len(power)
