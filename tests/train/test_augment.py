"""Geometric augmentation against SciPy, and what it must never do to a noised picture."""

import math

import numpy as np
import pytest
import torch
from ambient.train import augment
from ambient.train.target import ambient_target, fixed_noise
from fields import Fields
from scipy import ndimage
from torch.testing import assert_close

INDICES = torch.arange(4000)


def test_half_are_mirrored_and_which_depends_on_the_number_alone() -> None:
    flips = augment.mirror(INDICES, seed=1)
    assert float(flips.across.float().mean()) == pytest.approx(0.5, abs=0.04)
    assert not flips.down.any()
    assert torch.equal(augment.mirror(INDICES[100:200], seed=1).across, flips.across[100:200])
    pictures = torch.randn(4000, 1, 2, 2)
    mirrored = augment.flipped(pictures, flips)
    assert torch.equal(mirrored[flips.across], pictures[flips.across].flip(3))
    assert torch.equal(mirrored[~flips.across], pictures[~flips.across])


def test_every_transformation_has_its_probability_and_labels_say_what_was_done() -> None:
    w0 = torch.zeros(4000, 1, 8, 8)
    _, flips, labels = augment.geometric(w0, torch.zeros(4000), INDICES, probability=0.2, seed=0)
    assert labels.shape == (4000, 9)
    shares = (labels != 0).float().mean(dim=0)
    assert float(shares[0]) == pytest.approx(0.5, abs=0.04)
    assert float(shares[1]) == pytest.approx(0.1, abs=0.025)  # a coin is tossed within its probability
    assert all(float(share) == pytest.approx(0.2, abs=0.03) for share in shares[2:])
    assert torch.equal(labels[:, 0].bool(), flips.across)
    assert torch.equal(labels[:, 1].bool(), flips.down)
    scaled = labels[:, 2][labels[:, 2] != 0]
    assert float(scaled.std()) == pytest.approx(1, abs=0.1)
    assert_close((labels[:, 3] + 1) ** 2 + labels[:, 4] ** 2, torch.ones(4000))
    together = ((labels[:, 2] != 0) & (labels[:, 7] != 0)).float().mean()
    assert float(together) == pytest.approx(0.04, abs=0.015)  # independent of each other


def test_noised_pictures_are_flipped_and_nothing_else() -> None:
    """x_n of a flipped picture is the flipped x_n, bit for bit: no second noise ever meets w_0."""
    w0 = Fields(resolution=16).draw(4000, seed=0)
    s = torch.where(INDICES % 2 == 0, 0.5, 0.0)
    moved, flips, labels = augment.geometric(w0, s, INDICES, probability=0.9, seed=3)
    noised = s > 0
    assert torch.equal(moved[noised], w0[noised])
    assert not labels[noised, 2:].any()
    assert labels[~noised, 2:].any(dim=1).float().mean() > 0.9
    z = fixed_noise(torch.arange(4000), (1, 16, 16), seed=0)
    sigma, e = torch.full((4000,), 2.0), torch.zeros_like(w0)
    x_n, _ = ambient_target(w0, z, sigma, s, e)
    seen, _ = ambient_target(augment.flipped(moved, flips), augment.flipped(z, flips), sigma, s, e)
    assert torch.equal(seen[noised], augment.flipped(x_n, flips)[noised])


def test_an_unchanged_picture_is_bit_for_bit_itself_and_its_labels_are_zero() -> None:
    w0 = torch.randn(4000, 3, 8, 8)
    moved, _, labels = augment.geometric(w0, torch.zeros(4000), INDICES, probability=0.1, seed=0)
    still = ~labels[:, 2:].any(dim=1)
    assert 0.5 < float(still.float().mean()) < 0.75  # 0.9^4
    assert torch.equal(moved[still], w0[still])


def scipy_affine(
    picture: np.ndarray, log_scale: float, angle: float, axis: float, log_stretch: float, move: tuple[float, float]
) -> np.ndarray:
    """The transformation as its definition says it, in (y, x) coordinates from the centre of the picture."""

    def turn(by: float) -> np.ndarray:
        return np.array([[math.cos(by), -math.sin(by)], [math.sin(by), math.cos(by)]])

    stretch = turn(axis) @ np.diag([math.exp(log_stretch), math.exp(-log_stretch)]) @ turn(-axis)
    forward = turn(angle) @ (math.exp(log_scale) * stretch)  # on (x, y) column vectors
    swap = np.array([[0, 1], [1, 0]])
    inverse = swap @ np.linalg.inv(forward) @ swap
    centre = (np.array(picture.shape) - 1) / 2
    shift = np.array([move[1], move[0]]) * picture.shape[0] / 2
    return ndimage.affine_transform(picture, inverse, centre - inverse @ (centre + shift), order=3, mode="reflect")


@pytest.mark.parametrize(
    ("log_scale", "angle", "axis", "log_stretch", "move"),
    [
        (0.2, 0.0, 0.0, 0.0, (0.0, 0.0)),
        (0.0, 0.5, 0.0, 0.0, (0.0, 0.0)),
        (0.0, 0.0, 0.7, 0.3, (0.0, 0.0)),
        (0.0, 0.0, 0.0, 0.0, (0.25, -0.1)),
        (-0.1, 0.4, 1.0, 0.15, (0.1, 0.2)),
    ],
)
def test_the_geometry_is_scipys(
    log_scale: float, angle: float, axis: float, log_stretch: float, move: tuple[float, float]
) -> None:
    """A smooth picture, transformed by both: they interpolate differently, so to a few per cent of its spread."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), 8)
    expected = scipy_affine(smooth, log_scale, angle, axis, log_stretch, move)
    one = torch.ones(1)
    inverse = augment._inverse(log_scale * one, angle * one, axis * one, log_stretch * one, torch.tensor([move]))
    grid = torch.nn.functional.affine_grid(inverse, [1, 1, 64, 64], align_corners=False)
    picture = torch.from_numpy(smooth).float()[None, None]
    found = torch.nn.functional.grid_sample(
        picture, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    inside = np.s_[16:48, 16:48]
    difference = found[0, 0].numpy()[inside] - expected[inside]
    assert np.abs(difference).max() < 0.03 * smooth.std()
