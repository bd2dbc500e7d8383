"""Ways to damage a picture. Each takes (H, W, 3) uint8 RGB, a strength and random numbers, and returns new pixels."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from ..schemas.errors import UserError
from .images import U8

Damaged = tuple[U8, dict[str, float]]
"""Pixels, and what was drawn at random (``angle``)."""

_SAMPLES_PER_PIXEL = 32  # along the line of motion
_PATCHES_PER_SIDE = 8
_MID_GREY = 128
_JPEG_SIDE = 65_500  # at most, in libjpeg
_JPEG_PIECE = 65_488  # of a longer side: a multiple of 16, so that the pieces' blocks lie on one grid


def gaussian_blur(pixels: U8, sigma: float, random: np.random.Generator) -> Damaged:  # noqa: ARG001
    """Gaussian blur with standard deviation sigma pixels, borders mirrored, computed in float and rounded once."""
    blurred = ndimage.gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0), mode="reflect")
    return _rounded(blurred), {}


def jpeg(pixels: U8, quality: float, random: np.random.Generator) -> Damaged:
    """JPEG at a quality of 1 to 95 on the scale of libjpeg, chroma at half resolution; block grid at the corner.

    A picture too long for one file is compressed in pieces, which shows in the chroma beside their seams only.
    """
    axis = int(np.argmax(pixels.shape[:2]))
    if pixels.shape[axis] > _JPEG_SIDE:
        pieces = np.split(pixels, range(_JPEG_PIECE, pixels.shape[axis], _JPEG_PIECE), axis=axis)
        return np.concatenate([jpeg(piece, quality, random)[0] for piece in pieces], axis=axis), {}
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=int(quality), subsampling="4:2:0")
    with Image.open(data) as image:
        return np.asarray(image.convert("RGB")), {}


def motion_blur(pixels: U8, length: float, random: np.random.Generator) -> Damaged:
    """Blur along a straight line of ``length`` pixels whose angle is drawn from [0, 180) degrees, borders mirrored."""
    angle = float(random.uniform(0, 180))
    kernel = line_kernel(length, angle)
    blurred = ndimage.convolve(pixels.astype(np.float32), kernel[:, :, None].astype(np.float32), mode="reflect")
    return _rounded(blurred), {"angle": angle}


def mask(pixels: U8, fraction: float, random: np.random.Generator) -> Damaged:
    """Cut the picture into squares, an eighth of the short side wide, and turn this fraction of them mid grey."""
    height, width = pixels.shape[:2]
    side = max(1, min(height, width) // _PATCHES_PER_SIDE)
    rows, columns = -(-height // side), -(-width // side)
    hidden = np.zeros(rows * columns, dtype=bool)
    hidden[random.permutation(rows * columns)[: round(fraction * rows * columns)]] = True
    hidden = hidden.reshape(rows, columns).repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return np.where(hidden[:, :, None], np.uint8(_MID_GREY), pixels), {}


def down_up(pixels: U8, factor: float, random: np.random.Generator) -> Damaged:  # noqa: ARG001
    """Shrink by a factor, antialiased, and enlarge again, both bicubic."""
    image = Image.fromarray(pixels)
    small = image.resize((max(1, round(image.width / factor)), max(1, round(image.height / factor))), _BICUBIC)
    return np.asarray(small.resize(image.size, _BICUBIC)), {}


def line_kernel(length: float, angle: float) -> npt.NDArray[np.float64]:
    """Weights of a straight motion: (S, S), S odd, sum 1, symmetric about the centre.

    length: pixels. angle: degrees, counter-clockwise from the rows. The line is sampled finely and every sample shared
    among its four neighbours, so the result is the average along the line of the bilinearly interpolated picture.
    """
    count = math.ceil(length * _SAMPLES_PER_PIXEL)
    along = ((np.arange(count) + 0.5) / count - 0.5) * length
    reach = math.ceil(length / 2)
    # The trigonometric functions are not exactly 0 and 1 at right angles: rounding keeps those lines one pixel wide.
    x = np.round(along * math.cos(math.radians(angle)), 9) + reach
    y = np.round(-along * math.sin(math.radians(angle)), 9) + reach
    pixel = np.arange(2 * reach + 1)
    weight_x = np.maximum(0, 1 - np.abs(x[:, None] - pixel))
    weight_y = np.maximum(0, 1 - np.abs(y[:, None] - pixel))
    kernel: npt.NDArray[np.float64] = weight_y.T @ weight_x
    kernel /= kernel.sum()
    return kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class Corruption:
    """One way to damage, at one strength. Its name, such as ``jpeg-25``, is what ``parse`` reads."""

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"corruption {self.kind!r} is unknown: use {', '.join(KINDS)}, each with a strength")
        _, low, high, meaning = KINDS[self.kind]
        if not low <= self.strength <= high:
            raise UserError(f"{self.kind} takes a {meaning} from {low:g} to {high:g}, not {self.strength:g}")
        if self.kind == "jpeg" and self.strength != int(self.strength):
            raise UserError(f"jpeg takes a whole number as quality, not {self.strength:g}")

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.strength:g}"

    def __call__(self, pixels: U8, random: np.random.Generator) -> Damaged:
        """Damage (H, W, 3) uint8 RGB; returns pixels of the same shape and what was drawn at random."""
        return KINDS[self.kind][0](pixels, self.strength, random)


def parse(text: str) -> Corruption:
    """The corruption of a name such as ``blur-0.6``. Raises UserError for a kind or strength that there is none of."""
    kind, dash, strength = text.strip().partition("-")
    try:
        number = float(strength) if dash else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UserError(f"{text!r} is no corruption: write kind-strength, such as blur-0.6 or jpeg-25")
    return Corruption(kind=kind, strength=number)


KINDS: dict[str, tuple[Callable[[U8, float, np.random.Generator], Damaged], float, float, str]] = {
    "blur": (gaussian_blur, 0.1, 100, "standard deviation in pixels"),
    "jpeg": (jpeg, 1, 95, "quality"),
    "motion": (motion_blur, 1.5, 200, "length in pixels"),
    "mask": (mask, 0.01, 0.99, "fraction of the picture"),
    "down": (down_up, 1.1, 64, "factor"),
}
"""Kind -> function, smallest strength, largest, what the strength is."""

_BICUBIC = Image.Resampling.BICUBIC


def _rounded(values: npt.NDArray[np.float32]) -> U8:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
