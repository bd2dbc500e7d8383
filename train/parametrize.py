"""One noise level in three languages, and what networks predict in each.

Here noise is variance exploding (VE): x_t = x_0 + sigma e, in units of the Space. Others scale the same picture:

- variance preserving (VP, DDPM): x_vp = x_t / sqrt(1 + sigma^2) = sqrt(a) x_0 + sqrt(1 - a) e, a = 1 / (1 + sigma^2);
- rectified flow: x_flow = x_t / (1 + sigma) = (1 - t) x_0 + t e, t = sigma / (1 + sigma).

ln sigma is the logit of t, so timesteps drawn as logit-normal(m, s) are a ``Sampler`` with P_mean = m, P_std = s.

Each target is linear in y, the target of a denoiser (``target.py``), so its best predictor is that of y translated.
Shapes: sigma and what stands for it (N,); pictures (N, C, H, W), or any with N first. Floating point of any precision.
"""

import torch
from torch import Tensor


def alpha_bar_of(sigma: Tensor) -> Tensor:
    """DDPM's share of signal power at this noise level: 1 / (1 + sigma^2)."""
    return 1 / (1 + sigma**2)


def sigma_of_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """The inverse of ``alpha_bar_of``; of a whole schedule, the noise levels of its timesteps."""
    return torch.sqrt((1 - alpha_bar) / alpha_bar)


def time_of(sigma: Tensor) -> Tensor:
    """The time of rectified flow, 0 for data and 1 for noise: sigma / (1 + sigma)."""
    return sigma / (1 + sigma)


def sigma_of_time(t: Tensor) -> Tensor:
    """The inverse of ``time_of``, for t in [0, 1)."""
    return t / (1 - t)


def nearest_timestep(sigma: Tensor, levels: Tensor) -> Tensor:
    """(N,) int64 index into levels (T,), > 0 and ascending, of the nearest to each sigma by ratio.

    The nearest may lie on the other side of a picture's threshold: draw the levels themselves, by ``LevelSampler``,
    wherever the manifest is to be obeyed.
    """
    middle = torch.sqrt(levels[1:] * levels[:-1])
    return torch.bucketize(sigma, middle)


def to_vp(x: Tensor, sigma: Tensor) -> Tensor:
    """x_vp of x_t."""
    return x / torch.sqrt(1 + _like(sigma, x) ** 2)


def to_flow(x: Tensor, sigma: Tensor) -> Tensor:
    """x_flow of x_t."""
    return x / (1 + _like(sigma, x))


def eps_target(x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """The noise that DDPM predicts (arXiv 2006.11239, eq. 14): (x_t - y) / sigma."""
    return (x - y) / _like(sigma, x)


def v_target(x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """v = sqrt(a) eps - sqrt(1 - a) y (arXiv 2202.00512, section 4)."""
    level = _like(sigma, x)
    return (eps_target(x, y, sigma) - level * y) / torch.sqrt(1 + level**2)


def velocity_target(x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """d x_flow / dt = eps - y (arXiv 2209.03003, eq. 1, with data at t = 0)."""
    return eps_target(x, y, sigma) - y


def denoised_of_eps(x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser's answer that ``eps_target`` came from. x: x_t, not scaled."""
    return x - _like(sigma, x) * eps


def denoised_of_v(x: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser's answer that ``v_target`` came from. x: x_t, not scaled."""
    level = _like(sigma, x)
    return x / (1 + level**2) - level / torch.sqrt(1 + level**2) * v


def denoised_of_velocity(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser's answer that ``velocity_target`` came from. x: x_t, not scaled."""
    level = _like(sigma, x)
    return (x - level * velocity) / (1 + level)


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma (N,) with as many dimensions as x."""
    return sigma.view(-1, *[1] * (x.ndim - 1))
