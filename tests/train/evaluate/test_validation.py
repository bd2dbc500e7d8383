"""The denoising error against a denoiser whose error is known."""

import numpy as np
import pytest
import torch
from ambient.train.evaluate.validation import LEVELS, validate
from torch import Tensor

CPU = torch.device("cpu")
NAMES = torch.arange(400) * 7919


def gaussian_pictures(num: int = 400) -> Tensor:
    """Independent values of standard deviation 0.25, rounded to 8 bits."""
    x = 0.25 * torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ((x + 1) * 127.5).round().clamp(0, 255).byte()


def optimal(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
    gain = 0.25**2 / (0.25**2 + sigma.view(-1, 1, 1, 1) ** 2)
    return gain * x


def test_the_best_denoiser_of_white_pictures_has_its_error() -> None:
    """v sigma^2 / (v + sigma^2) for pictures of variance v."""
    found = validate(optimal, gaussian_pictures(), NAMES, None, seed=0, device=CPU).to_json()
    levels = np.array(LEVELS)
    expected = 0.25**2 * levels**2 / (0.25**2 + levels**2)
    assert np.all(np.abs(np.array(found["mean"]) - expected) < 4 * np.array(found["error"]) + 1e-3 * expected)
    assert max(found["error"]) < 0.02 * 0.25**2


def test_every_picture_has_its_own_noise_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = gaussian_pictures(20)
    whole = validate(optimal, pixels, NAMES[:20], None, seed=0, device=CPU).errors
    monkeypatch.setattr("ambient.train.evaluate.validation._BATCH_VALUES", 3 * 64)
    np.testing.assert_allclose(validate(optimal, pixels, NAMES[:20], None, seed=0, device=CPU).errors, whole, rtol=1e-5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    other = validate(optimal, pixels[order], NAMES[:20][order], None, seed=0, device=CPU).errors
    np.testing.assert_allclose(other, whole[:, order.numpy()], rtol=1e-5)
    assert not np.allclose(validate(optimal, pixels, NAMES[:20], None, seed=1, device=CPU).errors, whole)


def test_levels_do_not_share_noise() -> None:
    noise, pixels = [], torch.full((30, 1, 8, 8), 128, dtype=torch.uint8)

    def spy(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        noise.append((x - 1 / 255) / sigma.view(-1, 1, 1, 1))
        return x

    validate(spy, pixels, NAMES[:30], None, seed=0, device=CPU, levels=(1.0, 1.0))
    assert abs(float((noise[0] * noise[1]).mean())) < 0.1
    assert float(noise[0].square().mean()) == pytest.approx(1, abs=0.1)


def test_pictures_keep_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ambient.train.evaluate.validation._BATCH_VALUES", 3 * 64)
    seen = []

    def spy(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        seen.append(condition)
        return x

    validate(spy, gaussian_pictures(7), NAMES[:7], torch.arange(7), seed=0, device=CPU, levels=(0.1,))
    assert torch.cat(seen).tolist() == list(range(7))
