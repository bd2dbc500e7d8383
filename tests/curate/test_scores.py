import math

import numpy as np
import pytest
import skimage.data
from ambient.curate.corruptions import gaussian_blur, jpeg
from ambient.curate.scores import SCORES, score, sharpness, unblocked

RANDOM = np.random.default_rng(0)  # the corruptions used here draw nothing


@pytest.fixture(scope="module")
def photographs():
    names = ["astronaut", "camera", "chelsea", "coffee", "immunohistochemistry", "gravel", "grass", "brick"]
    pictures = [getattr(skimage.data, name)() for name in names]
    return [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pictures]


def crops(photographs, side, count, seed):
    random, out = np.random.default_rng(seed), []
    for index in range(count):
        photo = photographs[index % len(photographs)]
        top, left = (random.integers(0, length - side) for length in photo.shape[:2])
        out.append(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    return out


def test_more_blur_is_less_sharp(photographs):
    for photo in photographs:
        clean, mild, strong, gone = [
            score(gaussian_blur(photo, sigma, RANDOM)[0] if sigma else photo)["sharpness"]
            for sigma in (0, 0.6, 1.2, 2.5)
        ]
        assert clean - 0.2 > mild > max(strong, gone) + 0.2


def test_sharpness_does_not_depend_on_contrast_or_brightness(photographs):
    for photo in photographs:
        grey = photo[:256, :256, 1].astype(np.float32)
        dim = 60 + grey / 2
        assert abs(sharpness(grey) - sharpness(dim)) < 0.25
        assert abs(unblocked(grey) - unblocked(dim)) < 1.5


def test_sharpness_against_the_transfer_functions():
    """White noise through filters of unit energy: both bands equal, so the ratio is 1. Sinusoids: their gains."""
    noise = np.random.default_rng(0).normal(128, 40, (256, 256)).astype(np.float32)
    assert abs(sharpness(noise)) < 0.05
    for frequency in (0.125, 0.25, 0.4):
        wave = np.tile(128 + 100 * np.cos(2 * math.pi * frequency * np.arange(512)), (512, 1)).astype(np.float32)
        high = (2 * math.sin(math.pi * frequency)) ** 8 / 70
        middle = (2 * math.sin(2 * math.pi * frequency)) ** 4 / 6
        # mean square of 100 cos is 5000; the columns hold no energy, so that half is left
        expected = math.log(2500 * high + 0.1) - math.log(2500 * middle + 4)
        assert sharpness(wave) == pytest.approx(expected, abs=0.02)


def test_rows_and_columns_count_alike(photographs):
    grey = photographs[0][:128, :96, 1].astype(np.float32)
    stripes = grey + 20 * (np.arange(96) // 8 % 2)
    for picture in (grey, stripes.astype(np.float32)):
        assert sharpness(picture) == pytest.approx(sharpness(picture.T), abs=1e-3)
        assert unblocked(picture) == pytest.approx(unblocked(picture.T), abs=1e-3)


def test_blocks_are_seen_at_every_offset_and_only_there(photographs):
    photo = photographs[1][100:260, 100:260]
    assert score(photo)["unblocked"] > -4
    blocky = jpeg(photo, 25, RANDOM)[0]
    for offset in range(8):
        assert score(blocky[offset : offset + 128, 7 - offset : 135 - offset])["unblocked"] < -15
    assert score(gaussian_blur(photo, 1.0, RANDOM)[0])["unblocked"] > -4


@pytest.mark.parametrize("shape", [(8, 8), (8, 300), (15, 16), (2000, 9), (33, 1500)])
def test_every_picture_has_finite_scores(shape):
    random = np.random.default_rng(0)
    flat = np.full((*shape, 3), 200, np.uint8)
    binary = random.integers(0, 2, (*shape, 3), dtype=np.uint8) * 255
    stripes = np.tile((np.arange(shape[1]) % 2 * 255).astype(np.uint8)[None, :, None], (shape[0], 1, 3))
    for pixels in (flat, binary, stripes, 255 - flat):
        assert all(math.isfinite(value) for value in score(pixels).values())
    assert score(flat) == {"sharpness": pytest.approx(math.log(0.1 / 4), abs=1e-3), "unblocked": 0.0}
    assert score(binary)["sharpness"] > score(flat)["sharpness"]


def test_names():
    assert list(SCORES) == ["sharpness", "unblocked"]


@pytest.mark.parametrize("side", [32, 64])
def test_the_best_tenth_by_the_lower_rank_is_mostly_clean(photographs, side):
    """10 % clean, 45 % blurred, 45 % JPEG: chance is 0.1, sharpness alone reaches 0.3 to 0.5."""
    damages = [lambda p, s=s: gaussian_blur(p, s, RANDOM)[0] for s in (0.6, 1.2, 2.5)]
    damages += [lambda p, q=q: jpeg(p, q, RANDOM)[0] for q in (50, 25, 10)]
    pictures = crops(photographs, side, 1200, seed=1)
    order = np.random.default_rng(2).permutation(1200)
    clean = np.zeros(1200, dtype=bool)
    clean[order[:120]] = True
    for place, index in enumerate(order[120:]):
        pictures[index] = damages[place % 6](pictures[index])
    values = [score(p) for p in pictures]
    ranks = [np.searchsorted(np.sort(v), v, side="right") for v in ([r[n] for r in values] for n in SCORES)]
    best = np.argsort(-np.minimum(*ranks), kind="stable")[:120]
    assert clean[best].mean() >= 0.6
