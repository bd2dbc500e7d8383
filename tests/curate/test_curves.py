"""p_clean curves: the right averages, whatever the batch and the order."""

import shutil

import numpy as np
import pytest
import torch
from ambient.curate.curves import p_clean, search
from ambient.curate.noise import names_of
from ambient.curate.threshold import crossing, decide, draw_noise, isotonic, sigma_grid
from scipy import integrate, stats
from torch import Tensor

GRID = torch.tensor([0.05, 0.5, 5.0])
PICTURES = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
NAMES = names_of([f"{i + 1:016x}" * 2 for i in range(7)])


def first_pixel(x: Tensor, sigma: Tensor) -> Tensor:
    """A classifier that depends on one noisy number and on the level."""
    return 3 * x[:, 0, 0, 0] - sigma.log()


def curves(pictures: Tensor = PICTURES, names: Tensor = NAMES, *, classifier=first_pixel, **options) -> Tensor:
    return p_clean(classifier, pictures, names, GRID, **{"draws": 4, "seed": 0, **options})


# Not to the last bit: what a matrix product or torch.sigmoid rounds to depends on a number's place in the batch.
@pytest.mark.parametrize("batch", [1, 4, 5, 12, 1000])
def test_any_batch(batch: int) -> None:
    torch.testing.assert_close(curves(batch=batch), curves(), rtol=1e-4, atol=1e-12)


def test_any_order_and_any_company() -> None:
    order = torch.tensor([4, 0, 6, 2])
    torch.testing.assert_close(curves(PICTURES[order], NAMES[order]), curves()[order], rtol=1e-4, atol=1e-12)


def test_fewer_draws_are_the_first_of_more() -> None:
    torch.testing.assert_close(curves(draws=9)[:, :, :4], curves(draws=4), rtol=1e-4, atol=1e-12)


def test_shape_range_and_no_pictures() -> None:
    found = curves()
    assert found.shape == (7, 3, 4)
    assert found.dtype == torch.float32
    assert ((found >= 0) & (found <= 1)).all()
    assert found.std() > 0.1
    assert curves(PICTURES[:0], NAMES[:0]).shape == (0, 3, 4)


def test_every_picture_level_and_draw_has_noise_of_its_own() -> None:
    """The classifier hands back the noise itself."""

    def noise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),)
        assert (sigma == sigma[0]).all()
        return x[:, 0, 0, 0] / sigma

    found = torch.logit(curves(torch.zeros(7, 1, 8, 8), classifier=noise, draws=500).double())
    assert (found[..., 1::2] * found[..., ::2] <= 0).double().mean() > 0.8  # pairs of mostly opposite signs
    for table in (found[..., ::2].reshape(21, 250).numpy(), found[..., 1::2].reshape(21, 250).numpy()):
        assert np.abs(np.corrcoef(table) - np.eye(21)).max() < 5 / np.sqrt(250)
        assert len(np.unique(table.round(6))) > 0.99 * table.size
        assert stats.kstest(table.flatten(), "norm").pvalue > 0.01


def test_same_content_has_the_same_noise_and_another_seed_another() -> None:
    twice = curves(PICTURES[:1].repeat(2, 1, 1, 1), NAMES[:1].repeat(2))
    assert torch.equal(twice[0], twice[1])
    assert not torch.equal(curves(seed=1), curves())


def test_mean_against_the_integral() -> None:
    """E_z[sigmoid(3 (x + sigma z) - ln sigma)], by quadrature."""
    found = curves(draws=4096, batch=1 << 16).double().mean(dim=2)
    for picture in range(3):
        for level, sigma in enumerate(GRID.tolist()):
            x = float(PICTURES[picture, 0, 0, 0])

            def integrand(z: float, x: float = x, sigma: float = sigma) -> float:
                return stats.norm.pdf(z) / (1 + np.exp(-(3 * (x + sigma * z) - np.log(sigma))))

            exact = integrate.quad(integrand, -9, 9, points=[0.0])[0]
            assert float(found[picture, level]) == pytest.approx(exact, abs=4 * 0.5 / np.sqrt(4096))


def rising(x: Tensor, sigma: Tensor) -> Tensor:
    """Doubtful of every picture until noise drowns it; the first pixel says how much is needed."""
    return (x[:, 0, 0, 0] - 1.5) / sigma


def searched(pictures: Tensor = PICTURES, names: Tensor = NAMES, *, draws: int, **options):
    return search(rising, pictures, names, sigma_grid(), draws=draws, tau=0.45, **options)


@pytest.mark.parametrize("draws", [1, 2, 3, 8, 33])
def test_search_keeps_to_its_budget_and_looks_everywhere(draws: int) -> None:
    found = searched(draws=draws)
    assert found.mean.shape == found.variance.shape == found.count.shape == (7, 48)
    assert (found.count >= min(draws, 2)).all()
    assert (found.count.sum(axis=1) <= 48 * draws).all()
    assert (found.count.sum(axis=1) >= 0.85 * 48 * draws).all()


def test_search_draws_most_near_the_crossing() -> None:
    found = searched(draws=16)
    sigma = crossing(isotonic(found.mean, found.count), sigma_grid(), 0.45)
    assert len(np.unique(sigma.round(3))) == 7
    near = 0
    for count, level in zip(found.count, np.searchsorted(sigma_grid(), sigma), strict=True):
        assert count[level] > 4 * count.min()
        near += bool(count[level] == count.max())
    assert near >= 5  # the last draws may yet move a crossing


def test_search_means_and_variances_are_of_the_draws_it_counts() -> None:
    """Against all draws of every level. A level may lack the draws of a round that left it out."""
    found = searched(draws=8)
    levels = torch.tensor(sigma_grid(), dtype=torch.float32)
    many = p_clean(rising, PICTURES, NAMES, levels, draws=int(found.count.max()), seed=0).double().numpy()
    for count in (found.count.min(), found.count.max()):  # of levels in no window, and in both
        at = found.count == count
        drawn = many[..., : int(count)]
        np.testing.assert_allclose(found.mean[at], drawn.mean(axis=2)[at], rtol=1e-5)
        pairs = drawn.reshape(*drawn.shape[:2], -1, 2).mean(axis=3)
        if pairs.shape[2] == 1:
            assert np.isnan(found.variance[at]).all()
        else:
            np.testing.assert_allclose(found.variance[at], 2 * pairs.var(axis=2, ddof=1)[at], rtol=1e-3, atol=1e-9)


def test_search_of_one_picture_alone_is_the_same() -> None:
    together = searched(draws=8)
    for i in range(7):
        alone = searched(PICTURES[i : i + 1], NAMES[i : i + 1], draws=8)
        assert np.array_equal(alone.count[0], together.count[i])
        np.testing.assert_allclose(alone.mean[0], together.mean[i], rtol=1e-6)


def test_one_draw_is_not_taken_for_certainty() -> None:
    found = searched(draws=1)
    assert np.isnan(found.variance).all()
    noise = draw_noise(found.mean, found.variance, found.count)
    np.testing.assert_allclose(noise, 1.0)  # the most that it can be
    sigma_min, lo, hi = decide(found.mean, found.count, sigma_grid(), 0.05, noise=noise)
    assert (lo < sigma_min).all()
    assert ((sigma_min < hi) | np.isinf(sigma_min)).all()


def test_search_of_no_pictures() -> None:
    for how in ("rising", "first"):
        assert searched(PICTURES[:0], NAMES[:0], draws=8, how=how).mean.shape == (0, 48)


def bumpy(x: Tensor, sigma: Tensor) -> Tensor:
    """As ``rising``, but around sigma = 0.1 it takes the pictures whose first pixel is high for clean."""
    bump = torch.exp(-0.5 * ((sigma / 0.1).log() / 0.6) ** 2)
    return (x[:, 0, 0, 0] - 1.5) / sigma * (1 - bump) + bump * 4 * (x[:, 0, 0, 0] - 0.1)


def test_search_for_the_first_crossing() -> None:
    """Where a curve falls again, it finds what many draws at every level find, and its draws lie there."""
    pictures = torch.linspace(-0.6, 0.9, 40)[:, None, None, None].expand(-1, 1, 8, 8).contiguous()
    names, grid = torch.arange(40), sigma_grid()
    levels = torch.tensor(grid, dtype=torch.float32)
    many = p_clean(bumpy, pictures, names, levels, draws=600, seed=9).double().mean(dim=2).numpy()
    truth = np.array([grid[(curve > 0.45).argmax()] for curve in many])
    assert 10 < (truth < 0.2).sum() < 30  # some have a bump that passes, some have not
    found = search(bumpy, pictures, names, grid, draws=12, tau=0.45, how="first", seed=0)
    noise = draw_noise(found.mean, found.variance, found.count)
    sigma_min, *_ = decide(found.mean, found.count, grid, 0.05, noise=noise, how="first")
    step = grid[1] / grid[0]
    assert (np.abs(np.log(sigma_min / truth)) < 2 * np.log(step)).mean() >= 0.9
    at = np.clip(np.searchsorted(grid, truth), 0, 47)
    assert np.median(found.count[np.arange(40), at]) > 3 * np.median(found.count)
    assert (found.count.sum(axis=1) <= 48 * 12).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_compiled_curves_are_the_same() -> None:
    """Also with levels mixed in a batch, the last batch filled up, and more than one set of levels and draws."""
    found, plain = searched(draws=8, compiled=True), searched(draws=8)
    assert np.array_equal(found.count, plain.count)
    np.testing.assert_allclose(found.mean, plain.mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance, plain.variance, rtol=1e-3, atol=1e-8)
