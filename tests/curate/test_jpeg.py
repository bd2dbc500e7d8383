"""The trace of JPEG: found on every grid, with the quality that made it, and nowhere else."""

import io

import numpy as np
import pytest
import skimage.data
from ambient.curate.corruptions import gaussian_blur
from ambient.curate.jpeg import NOT_COMPRESSED, _steps, dct_basis, jpeg_quality
from ambient.curate.windows import LUMA, plane, windows
from PIL import Image
from scipy.fft import dct


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    names = ["astronaut", "chelsea", "coffee"]
    pictures = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    return [np.asarray(p.resize((p.width // 2, p.height // 2))) for p in pictures]


def compressed(pixels: np.ndarray, quality: int) -> Image.Image:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality)
    return Image.open(data)


def quality_of(pixels: np.ndarray) -> float:
    return jpeg_quality(plane(windows(np.ascontiguousarray(pixels)), LUMA))


@pytest.mark.parametrize("quality", [10, 25, 50, 75, 90, 95, 96, 97])
def test_the_quality_is_read_from_the_pixels(photographs: list[np.ndarray], quality: int) -> None:
    """Those of cameras, 95 and more, too: they must not pass for the lowest, whose steps nothing contradicts."""
    for photo in photographs:
        assert quality_of(np.asarray(compressed(photo, quality))) == pytest.approx(quality, abs=2)


@pytest.mark.parametrize("quality", [10, 25, 50, 75, 90])
def test_the_quality_of_crops_of_32_pixels(photographs: list[np.ndarray], quality: int) -> None:
    """Nearly all within 3, and no two in a hundred pass for uncompressed."""
    found = []
    for photo in photographs:
        blocky = np.asarray(compressed(photo, quality))
        places = [(down, right) for down in range(3, 96, 23) for right in range(5, 96, 19)]
        found += [quality_of(blocky[down : down + 32, right : right + 32]) for down, right in places]
    assert np.mean(np.abs(np.array(found) - quality) <= 3) > 0.9
    assert np.mean(np.array(found) > 97) < 0.02


def test_crops_of_32_pixels_that_were_never_compressed(photographs: list[np.ndarray]) -> None:
    places = [(down, right) for down in range(0, 96, 7) for right in range(0, 96, 7)]
    found = [quality_of(photo[d : d + 32, r : r + 32]) for photo in photographs for d, r in places]
    assert np.mean(np.array(found) > 97) > 0.99


def test_on_every_grid(photographs: list[np.ndarray]) -> None:
    blocky = np.asarray(compressed(photographs[0], 60))
    for place in range(0, 64, 7):
        down, right = divmod(place, 8)
        assert quality_of(blocky[down : down + 128, right : right + 128]) == pytest.approx(60, abs=3)


def test_pictures_that_were_never_compressed(photographs: list[np.ndarray]) -> None:
    random = np.random.default_rng(0)
    white = random.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    smooth = np.tile(np.arange(128, dtype=np.uint8)[:, None, None], (1, 128, 3))
    blurred = [gaussian_blur(photo, 1.5, random)[0] for photo in photographs]
    for pixels in (*photographs, *blurred, white, smooth, np.zeros((64, 64, 3), np.uint8)):
        assert quality_of(pixels) > 97


def test_next_to_no_evidence_is_none(photographs: list[np.ndarray]) -> None:
    """Nearly all that was never compressed is equal, and none is below 100 by what no one could tell."""
    found = [
        quality_of(photo[d : d + 64, r : r + 64]) for photo in photographs for d in (0, 48) for r in range(0, 99, 9)
    ]
    assert [quality_of(photo) for photo in photographs] == [NOT_COMPRESSED] * 3
    assert np.mean(np.array(found) == NOT_COMPRESSED) > 0.9
    assert all(value == round(value, 1) for value in found)


def test_no_verdict_on_what_is_too_small() -> None:
    assert quality_of(np.asarray(compressed(np.zeros((14, 200, 3), np.uint8), 5))) == NOT_COMPRESSED


@pytest.mark.parametrize("quality", [5, 31, 50, 77, 96])
def test_steps_are_those_that_libjpeg_writes(quality: int) -> None:
    """Pillow gives a file's first table in raster order."""
    image = compressed(np.zeros((16, 16, 3), np.uint8), quality)
    assert np.array_equal(_steps()[:, quality - 4], np.array(image.quantization[0]))


def test_dct_against_scipy() -> None:
    values = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    np.testing.assert_allclose(values @ dct_basis(), dct(values, norm="ortho"), atol=1e-5)
