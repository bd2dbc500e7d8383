"""The built-in measures against closed forms, scipy and scikit-image, and on damaged photographs."""

import math

import numpy as np
import pytest
import skimage.data
from ambient.curate.corruptions import down_up, gaussian_blur, jpeg
from ambient.curate.scores import SCORES, diagonal_sharpness, noise, present, score, sharpness, undamaged
from ambient.curate.windows import CHROMA, LUMA, plane, windows
from scipy.fft import dctn
from skimage.measure import shannon_entropy
from skimage.restoration import estimate_sigma

RANDOM = np.random.default_rng(0)  # the corruptions used here draw nothing
DAMAGES = {
    "blur 1": lambda p: gaussian_blur(p, 1.0, RANDOM)[0],
    "blur 2.5": lambda p: gaussian_blur(p, 2.5, RANDOM)[0],
    "jpeg 50": lambda p: jpeg(p, 50, RANDOM)[0],
    "jpeg 10": lambda p: jpeg(p, 10, RANDOM)[0],
    "noise 10": lambda p: noised(p, 10),
    "noise 30": lambda p: noised(p, 30),
    "down 2": lambda p: down_up(p, 2, RANDOM)[0],
    "down 4": lambda p: down_up(p, 4, RANDOM)[0],
}


def noised(pixels: np.ndarray, deviation: float) -> np.ndarray:
    values = pixels + np.random.default_rng(1).normal(0, deviation, pixels.shape)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Halved: what camera and compression did to the originals is gone."""
    names = ["astronaut", "camera", "chelsea", "coffee", "brick", "gravel"]
    pictures = [getattr(skimage.data, name)() for name in names]
    rgb = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pictures]
    return [np.ascontiguousarray(halved(p)) for p in rgb]


def halved(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2)))


def grey_windows(values: np.ndarray) -> np.ndarray:
    """(N, 32, 32) float32 windows of a grey picture that is no uint8, cut side by side."""
    height, width = (length // 32 * 32 for length in values.shape)
    cut = values[:height, :width].reshape(height // 32, 32, width // 32, 32).transpose(0, 2, 1, 3)
    return cut.reshape(-1, 32, 32).astype(np.float32)


def test_names_and_finite_numbers(photographs: list[np.ndarray]) -> None:
    values = score(photographs[0])
    assert list(values) == list(SCORES)
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("shape", [(8, 8), (8, 300), (15, 16), (2000, 9), (33, 1500)])
def test_every_picture_has_finite_scores(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    flat = np.full((*shape, 3), 200, np.uint8)
    binary = random.integers(0, 2, (*shape, 3), dtype=np.uint8) * 255
    stripes = np.tile((np.arange(shape[1]) % 2 * 255).astype(np.uint8)[None, :, None], (shape[0], 1, 3))
    for pixels in (flat, binary, stripes, 255 - flat):
        assert all(math.isfinite(value) for value in score(pixels).values())
    found = score(flat)
    assert found["sharpness"] == pytest.approx(math.log(0.1 / 4), abs=1e-3)
    assert (found["noise"], found["chroma_noise"], found["entropy"], found["clipped"]) == pytest.approx(
        (0,) * 4, abs=1e-4
    )
    assert (found["jpeg_quality"], found["brightness"]) == pytest.approx((100, 200), abs=0.1)
    assert score(binary)["clipped"] == 1.0


def test_sharpness_against_the_transfer_functions() -> None:
    """White noise through filters of unit energy: both bands equal, so the ratio is 1. Sinusoids: their gains."""
    white = np.random.default_rng(0).normal(128, 40, (256, 256))
    assert abs(sharpness(grey_windows(white))) < 0.06
    for frequency in (0.125, 0.25, 0.375):
        wave = np.tile(128 + 100 * np.cos(2 * math.pi * frequency * np.arange(512)), (512, 1))
        high = (2 * math.sin(math.pi * frequency)) ** 8 / 70
        middle = (2 * math.sin(2 * math.pi * frequency)) ** 4 / 6
        # mean square of 100 cos is 5000; the columns hold no energy, so that half is left
        expected = math.log(2500 * high + 0.1) - math.log(2500 * middle + 4)
        assert sharpness(grey_windows(wave)) == pytest.approx(expected, abs=0.06)


def test_diagonal_sharpness_of_white_noise_and_against_scipy(photographs: list[np.ndarray]) -> None:
    """All coefficients of white noise have its variance."""
    white = np.random.default_rng(0).normal(128, 40, (512, 512))
    expected = math.log(1600 + 0.05) - 0.7 * math.log(1600 + 1)
    assert diagonal_sharpness(grey_windows(white)) == pytest.approx(expected, abs=0.03)
    grey = photographs[0].astype(np.float64) @ LUMA
    blocks = grey_windows(grey).reshape(-1, 4, 8, 4, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 8, 8)
    energy = np.square(dctn(blocks, axes=(1, 2), norm="ortho")).mean(axis=0)
    expected = math.log(energy[6:, 6:].mean() + 0.05) - 0.7 * math.log(energy[3:5, 3:5].mean() + 1)
    assert diagonal_sharpness(grey_windows(grey)) == pytest.approx(expected, abs=1e-3)


def test_mild_blur_shows_along_the_diagonals_more_than_elsewhere(photographs: list[np.ndarray]) -> None:
    """In crops of 32 pixels: how often the sharp one of two different crops is told from the blurred one."""
    right = {"sharpness": 0.0, "diagonal_sharpness": 0.0}
    before, after = [], []
    for photo in photographs:
        blurred = gaussian_blur(photo, 0.6, RANDOM)[0]
        for top, left in [(top, left) for top in range(0, 100, 33) for left in range(0, 160, 32)]:
            before.append(score(photo[top : top + 32, left : left + 32]))
            after.append(score(blurred[top : top + 32, left : left + 32]))
    for name in right:
        sharp, soft = (np.array([values[name] for values in of]) for of in (before, after))
        right[name] = np.mean(sharp[:, None] > soft[None, :])
    assert right["diagonal_sharpness"] > right["sharpness"] + 0.01
    assert right["diagonal_sharpness"] > 0.9


def test_sharpness_does_not_depend_on_contrast_brightness_or_direction(photographs: list[np.ndarray]) -> None:
    for photo in photographs:
        grey = grey_windows(photo[:, :, 1].astype(np.float64))
        assert sharpness(grey) == pytest.approx(sharpness(60 + grey / 2), abs=0.25)
        assert sharpness(grey) == pytest.approx(sharpness(grey.transpose(0, 2, 1)), abs=1e-3)


def test_more_blur_is_less_sharp(photographs: list[np.ndarray]) -> None:
    for photo in photographs:
        clean, mild, strong, gone = [
            score(gaussian_blur(photo, sigma, RANDOM)[0] if sigma else photo)["sharpness"]
            for sigma in (0, 0.6, 1.2, 2.5)
        ]
        assert clean - 0.2 > mild > max(strong, gone) + 0.2


@pytest.mark.parametrize("deviation", [2.0, 5.0, 15.0, 40.0])
def test_noise_of_pure_noise_and_against_scikit_image(deviation: float) -> None:
    flat = np.full((256, 256), 128.0)
    values = flat + np.random.default_rng(0).normal(0, deviation, flat.shape)
    found = noise(grey_windows(values))
    assert found == pytest.approx(deviation, rel=0.08)
    assert found == pytest.approx(estimate_sigma(values), rel=0.1)


def test_noise_on_photographs_is_found_and_chroma_shows_noise_of_each_colour(photographs: list[np.ndarray]) -> None:
    for photo in photographs:
        before, after = score(photo), score(noised(photo, 15))
        assert after["noise"] > 1.5 * before["noise"] + 2
        assert after["chroma_noise"] == pytest.approx(15, rel=0.3)


def test_planes_of_independent_noise_keep_the_energy_they_should() -> None:
    values = np.random.default_rng(0).normal(0, 10, (20, 32, 32, 3))
    assert plane(values, CHROMA).std() == pytest.approx(10, rel=0.02)
    assert plane(values, LUMA).std() == pytest.approx(10 * math.sqrt(0.299**2 + 0.587**2 + 0.114**2), rel=0.02)
    assert abs(plane(np.full((1, 8, 8, 3), 77, np.uint8), CHROMA)).max() < 1e-4


def power_law_picture(exponent: float, cut: float, side: int = 256) -> np.ndarray:
    """A Gaussian field with spectrum f^-exponent below `cut` of the highest frequency along each axis, none above."""
    rows, columns = np.fft.fftfreq(side)[:, None] * 2, np.fft.fftfreq(side)[None, :] * 2
    frequency = np.maximum(np.hypot(rows, columns), 1 / side)
    amplitude = frequency ** (-exponent / 2) * ((abs(rows) <= cut) & (abs(columns) <= cut))
    field = np.fft.ifft2(np.fft.fft2(np.random.default_rng(3).normal(size=(side, side))) * amplitude).real
    return 128 + 40 * field / field.std()


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.75, 1.0])
def test_resolution_present_is_where_a_spectrum_ends(cut: float) -> None:
    assert present(grey_windows(power_law_picture(2.0, cut))) == pytest.approx(cut, abs=0.13)


def test_resolution_of_enlarged_photographs(photographs: list[np.ndarray]) -> None:
    """Within a factor of 1.7; the original's is its own."""
    for photo in photographs:
        short = min(photo.shape[:2])
        assert score(photo)["resolution"] > 0.6 * short
        for factor in (3, 6):
            found = score(down_up(photo, factor, RANDOM)[0])["resolution"]
            assert short / factor / 1.7 < found < 1.7 * short / factor


def test_brightness_contrast_entropy_and_clipping_against_the_whole_picture(photographs: list[np.ndarray]) -> None:
    """On a picture that the windows cover without overlap."""
    pixels = np.ascontiguousarray(photographs[1][:64, :64])
    grey = np.asarray(pixels @ LUMA.astype(np.float64))
    found = score(pixels)
    assert found["brightness"] == pytest.approx(grey.mean(), abs=1e-2)
    assert found["contrast"] == pytest.approx(grey.std(), rel=1e-4)
    assert found["entropy"] == pytest.approx(shannon_entropy(np.floor(grey + 5e-4)), abs=1e-6)
    dark = np.where(np.arange(64)[:, None, None] < 16, 0, pixels.clip(1, 254)).astype(np.uint8)
    assert score(dark)["clipped"] == 0.25


def test_undamaged_is_higher_for_the_picture_than_for_its_damaged_copies(photographs: list[np.ndarray]) -> None:
    before = [score(photo)["undamaged"] for photo in photographs]
    for name, damage in DAMAGES.items():
        after = [score(damage(photo))["undamaged"] for photo in photographs]
        assert all(a < b for a, b in zip(after, before, strict=True)), name
        assert max(after) < min(before) + 0.5, name


def test_undamaged_is_the_odds_against_any_damage() -> None:
    sharp = {"sharpness": 0.0, "coarse_sharpness": 0.0, "diagonal_sharpness": 0.0}
    clean = {**sharp, "jpeg_quality": 100.0, "noise": 0.0, "chroma_noise": 0.0}
    assert undamaged(clean) > 3
    bad = {**dict.fromkeys(sharp, -6.0), "jpeg_quality": 20.0, "noise": 30.0, "chroma_noise": 30.0}
    alone = {name: undamaged({**clean, name: value}) for name, value in bad.items()}
    assert all(value < -3 for value in alone.values())
    # odds: 1 / (sum of the single odds against), but for the little that the good measures add to each
    odds_against = sum(math.exp(-value) for value in alone.values())
    assert undamaged(bad) == pytest.approx(-math.log(odds_against), abs=0.01)


def test_windows_cover_small_pictures_and_sample_large_ones() -> None:
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3)
    assert np.array_equal(np.unique(windows(pixels)), np.arange(64 * 64 * 3))
    rows = np.broadcast_to(np.arange(8000, dtype=np.uint16)[:, None, None], (8000, 40, 3))
    found = windows(rows)
    assert found.shape == (8, 32, 32, 3)
    assert (found[:, 0, 0, 0] % 8 == 0).all()
    assert found.min() == 0
    assert found.max() > 7950
    assert windows(pixels[:8, :20]).shape == (1, 8, 20, 3)


def test_the_best_twentieth_is_clean(photographs: list[np.ndarray]) -> None:
    """10 % undamaged crops among all damages: chance is 0.1, sharpness alone takes the noisy ones."""
    random = np.random.default_rng(4)
    crops = []
    for index in range(400):
        photo = photographs[index % len(photographs)]
        top, left = (int(random.integers(0, length - 95)) for length in photo.shape[:2])
        crops.append(np.ascontiguousarray(photo[top : top + 96, left : left + 96]))
    damages = list(DAMAGES.values())
    clean = np.arange(400) % 10 == 3
    pictures = [crop if clean[i] else damages[i % 7 % len(damages)](crop) for i, crop in enumerate(crops)]
    found = np.array([score(picture)["undamaged"] for picture in pictures])
    assert clean[np.argsort(-found)[:20]].mean() >= 0.95
    sharp = np.array([score(picture)["sharpness"] for picture in pictures])
    assert clean[np.argsort(-sharp)[:20]].mean() < 0.3
