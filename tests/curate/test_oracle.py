"""The classifier and the annotator against the exact answers of Gaussian random fields (tests/fields.py)."""

import numpy as np
import pytest
import torch
from ambient.curate.classifier import ClassifierConfig, QualityClassifier
from ambient.curate.curves import p_clean, search
from ambient.curate.fit import FitConfig, Split, balanced_accuracy, fit_members
from ambient.curate.noise import names_of
from ambient.curate.noisy import Sample
from ambient.curate.threshold import crossing, decide, draw_noise, isotonic, sigma_grid
from ambient.schemas.space import Space
from fields import Fields
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import logsigmoid

pytestmark = pytest.mark.slow
THREADS = 2  # tests/conftest.py

FIELDS = Fields(resolution=32)
BLURS = [0.5, 1.0, 2.0]
PER_BLUR = 60
DRAWS = 6  # the default of ambient annotate
EPSILON = 0.05
SPACE = Space(resolution=32, channels=1)
NAMES = names_of([f"{i:032x}"[::-1] for i in range(PER_BLUR * len(BLURS))])


def mixture(num: int, seed: int) -> Tensor:
    """num fields of each blur, blur after blur."""
    return torch.cat([FIELDS.draw(num, blur=blur, seed=seed + i) for i, blur in enumerate(BLURS)])


def optimal(x: Tensor, sigma: Tensor) -> Tensor:
    return FIELDS.optimal_logit(x, sigma[:1] if sigma.stride(0) == 0 else sigma, blurs=BLURS)


def sample(pictures: Tensor) -> Sample:
    nothing = torch.zeros(len(pictures), dtype=torch.int64)
    return Sample(pictures=pictures, names=nothing, groups=nothing)


@pytest.fixture(scope="module")
def classifier() -> QualityClassifier:
    clean = torch.cat([FIELDS.draw(24_000, seed=1), FIELDS.draw(900, seed=2)])
    other = torch.cat([mixture(8000, seed=10), mixture(300, seed=20)])
    train, held = torch.arange(24_000), torch.arange(24_000, 24_900)
    fit = fit_members(
        sample(clean),
        sample(other),
        [Split(clean=train, other=train, held_clean=held, held_other=held)],
        space=SPACE,
        config=FitConfig(steps=300, batch_size=256, lr=2e-3),
        network=ClassifierConfig(dropout=0.0),  # there is no lack of fields
    )
    return fit.members[0]


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return mixture(PER_BLUR, seed=30)


@pytest.fixture(scope="module")
def true_sigma_min(pictures: Tensor) -> np.ndarray:
    return dense(optimal, pictures, draws=24, seed=1)


@pytest.fixture(scope="module")
def found_sigma_min(classifier: QualityClassifier, pictures: Tensor) -> np.ndarray:
    return annotated(classifier, pictures, draws=DRAWS)[0]


def dense(classifier, pictures: Tensor, *, draws: int, seed: int) -> np.ndarray:
    """sigma_min from the same number of draws at every level between 0.2 and 8, where all of these fields cross."""
    grid = sigma_grid()
    grid = grid[(grid > 0.2) & (grid < 8)]
    levels = torch.tensor(grid, dtype=torch.float32)
    curves = p_clean(classifier, pictures, NAMES[: len(pictures)], levels, draws=draws, seed=seed)
    sigma_min = crossing(isotonic(curves.mean(dim=2).double().numpy()), grid, 0.5 - EPSILON)
    assert (sigma_min > 0).all()
    assert np.isfinite(sigma_min).all()
    return sigma_min


def annotated(classifier, pictures: Tensor, *, draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sigma_min, lo, hi as the annotator finds them with `draws` per level on average."""
    curves = search(classifier, pictures, NAMES[: len(pictures)], sigma_grid(), draws=draws, tau=0.5 - EPSILON)
    assert curves.count.mean() <= draws
    noise = draw_noise(curves.mean, curves.variance, curves.count)
    return decide(curves.mean, curves.count, sigma_grid(), EPSILON, noise=noise)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6, 1.0, 2.0, 4.0])
def test_classifier_is_near_the_optimum(classifier: QualityClassifier, sigma: float) -> None:
    """Mean KL(optimal || net) <= 0.01 nats over noisy clean and blurred fields, half and half."""
    x0 = torch.cat([FIELDS.draw(1500, seed=40), mixture(500, seed=50)])
    x = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    levels = torch.full((len(x),), sigma)
    best = optimal(x, levels)
    with torch.no_grad():
        net = classifier(x, levels).double()
    p = torch.sigmoid(best)
    kl = p * (logsigmoid(best) - logsigmoid(net)) + (1 - p) * (logsigmoid(-best) - logsigmoid(-net))
    assert kl.mean() <= 0.01


def test_sigma_min_of_mixed_blurs(found_sigma_min: np.ndarray, true_sigma_min: np.ndarray) -> None:
    error = np.abs(np.log(found_sigma_min / true_sigma_min))
    assert np.isfinite(error).all()
    assert spearmanr(found_sigma_min, true_sigma_min).statistic >= 0.97
    assert np.median(error) <= 0.08


def test_sigma_min_beats_the_best_constant_per_blur(found_sigma_min: np.ndarray, true_sigma_min: np.ndarray) -> None:
    truth, found = (np.log(s).reshape(len(BLURS), PER_BLUR) for s in (true_sigma_min, found_sigma_min))
    constant = np.abs(truth - np.median(truth, axis=1, keepdims=True))  # the median has the least absolute error
    assert np.abs(found - truth).mean() < constant.mean()


@pytest.mark.parametrize("blur", range(len(BLURS)))
def test_sigma_min_orders_fields_of_one_blur(
    found_sigma_min: np.ndarray, true_sigma_min: np.ndarray, blur: int
) -> None:
    mine = slice(blur * PER_BLUR, (blur + 1) * PER_BLUR)
    assert spearmanr(found_sigma_min[mine], true_sigma_min[mine]).statistic >= 0.75


def test_interval_covers_the_dense_value(classifier: QualityClassifier, pictures: Tensor) -> None:
    """The 90 % interval covers the value of the same classifier with many draws."""
    _, lo, hi = annotated(classifier, pictures, draws=DRAWS)
    truth = dense(classifier, pictures, draws=64, seed=5)
    covered = ((lo <= truth) & (truth <= hi)).mean()
    assert 0.85 <= covered <= 0.95


def test_an_untrained_classifier_knows_nothing() -> None:
    """It leans one way or the other by a hair, which may be right by luck; that must not count as knowledge."""
    clean, blurred = FIELDS.draw(300, seed=61), mixture(100, seed=60)
    untrained = QualityClassifier(SPACE, ClassifierConfig()).eval()
    assert balanced_accuracy(untrained, clean, blurred, 0.01) == 0.5
