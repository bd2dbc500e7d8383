"""The whole training path against the optimal denoiser of Gaussian fields, which is a Wiener filter."""

import pytest
import torch
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.networks.unet import UNetConfig
from ambient.train.precondition import Denoiser
from ambient.train.sampler import Sampler, slots
from ambient.train.state import new_state
from ambient.train.target import ambient_target, fresh_noise, noise_floor, weighted_loss
from ambient.train.world import World
from fields import Fields

FIELDS = Fields(resolution=16)
ALONE = World(rank=0, size=1, device=torch.device("cpu"))
SPACE = Space(resolution=16, channels=1)
LIMITS = {0.2: 0.12, 0.5: 0.05, 1.0: 0.05, 2.0: 0.05}


def trained(config: TrainConfig) -> Denoiser:
    """The averaged denoiser after training on fresh fields, a quarter of them with sigma_min 0.3 and fresh z.

    With fresh z the noisy picture really is distributed as a clean field plus noise, so the optimum stays the same.
    """
    sigma_min, sigma_max = torch.tensor([0.0, 0.0, 0.0, 0.3]), torch.zeros(4)
    sampler = Sampler(sigma_min, sigma_max, P_mean=config.P_mean, P_std=config.P_std, seed=config.seed)
    state = new_state(config, SPACE, ALONE)
    while state.num_images < config.num_images:
        indices = slots(state.num_images, config.batch_size)
        rows, sigma = sampler.draw(indices)
        s = noise_floor(sigma, sigma_min[rows], sigma_max[rows])
        w0 = FIELDS.draw(len(rows), seed=1_000_000 * (config.seed + 1) + state.num_images)
        z, e = (fresh_noise(indices, SPACE.shape, seed=config.seed + k) for k in (0, 1))
        x_t, y = ambient_target(w0, z, sigma, s, e)
        weighted_loss(state.denoiser(x_t, sigma), y, sigma, SPACE.sigma_data).mean().backward()
        state.update(config, ALONE)
    return state.average


def excess_error(denoiser: Denoiser, sigma: float) -> float:
    """Mean of ||D - D_opt||^2 over fields, relative to the error that no denoiser can avoid."""
    level = torch.full((1024,), sigma)
    x_t = FIELDS.draw(1024, seed=7) + sigma * fresh_noise(torch.arange(1024), SPACE.shape, seed=99)
    with torch.no_grad():
        excess = (denoiser(x_t, level) - FIELDS.optimal_denoiser(x_t, level)).square().mean()
    return float(excess) / FIELDS.optimal_error(sigma)


@pytest.mark.slow
def test_trained_denoiser_is_nearly_optimal() -> None:
    config = TrainConfig(
        num_images=40_000,
        batch_size=128,
        lr=2e-3,
        warmup_images=800,
        P_mean=-0.3,
        P_std=1.0,
        network=UNetConfig(channels=16, multipliers=(1, 2, 2), blocks=1),
    )
    denoiser = trained(config)
    found = {sigma: excess_error(denoiser, sigma) for sigma in LIMITS}
    assert all(found[sigma] <= limit for sigma, limit in LIMITS.items()), found


def test_excess_of_the_optimum_is_zero_and_of_no_denoising_is_large() -> None:
    assert excess_error(lambda x, sigma: FIELDS.optimal_denoiser(x, sigma), 0.5) == 0  # type: ignore[arg-type]
    assert excess_error(lambda x, sigma: x, 0.5) > 1  # type: ignore[arg-type]
