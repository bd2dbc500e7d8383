"""The ambient target: what the denoiser sees and what it is asked for, when only a noised picture is to be trusted.

Ambient loss as a change of target (arXiv 2506.10038, section 2.2 and appendix C.1). With s = sigma_min and
alpha = (sigma^2 - s^2) / sigma^2 the paper's loss is

    lambda alpha^-2 || alpha D + (1 - alpha) x_t - x_n ||^2,   x_n = w_0 + s z,   x_t = x_n + sqrt(sigma^2 - s^2) e.

Its inside is alpha (D - y) with y = (x_n - (1 - alpha) x_t) / alpha = x_n - s^2 / sqrt(sigma^2 - s^2) e, so it is the
ordinary loss lambda || D - y ||^2 against y. Given (x_t, w_0), y has mean w_0 and variance s^2 / alpha.
"""

from typing import Literal

import torch
from torch import Tensor

from ..curate.noise import Purpose, normals

Target = Literal["ambient", "plain"]


def noise_floor(sigma: Tensor, sigma_min: Tensor, sigma_max: Tensor) -> Tensor:
    """s: how much noise a picture must carry before it is trusted: 0 where sigma < sigma_max, else sigma_min.

    All (N,) float32, of pictures usable at sigma. Returns (N,) float32.
    """
    return torch.where(sigma.double() < sigma_max.double(), 0.0, sigma_min)


def fixed_noise(names: Tensor, shape: tuple[int, ...], *, seed: int | Tensor) -> Tensor:
    """z_i, the one noise that a picture keeps for the whole run.

    names: (N,) int64 from ``curate.noise.names_of``. shape: of one picture. Returns (N, *shape) float32.
    """
    return normals(names, _count(shape), seed=seed, purpose=Purpose.FIXED).view(-1, *shape)


def fresh_noise(indices: Tensor, shape: tuple[int, ...], *, seed: int | Tensor) -> Tensor:
    """e, the noise of one training picture. indices: (N,) int64, global. Returns (N, *shape) float32."""
    return normals(indices, _count(shape), seed=seed, purpose=Purpose.FRESH).view(-1, *shape)


def ambient_target(w0: Tensor, z: Tensor, sigma: Tensor, s: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, y) of the ambient loss; where s = 0, y is w_0 bit for bit.

    w0, z, e: (N, C, H, W), picture, fixed and fresh noise. sigma: (N,); s: (N,) from ``noise_floor``, which must lie
    below sigma, as it does where the picture is usable. That is not checked, because it would wait for the device:
    with s = sigma, y is infinite or NaN, and with s > sigma, x_t and y are NaN.
    """
    sigma, s = sigma.view(-1, 1, 1, 1), s.view(-1, 1, 1, 1)
    rest = torch.sqrt((sigma - s) * (sigma + s))
    x_n = w0 + s * z
    return x_n + rest * e, x_n - (s**2 / rest) * e


def plain_target(w0: Tensor, z: Tensor, sigma: Tensor, s: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """The same x_t with y = w_0. Arguments as ``ambient_target``."""
    x_t, _ = ambient_target(w0, z, sigma, s, e)
    return x_t, w0


TARGETS = {"ambient": ambient_target, "plain": plain_target}


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (arXiv 2206.00364, table 1). Shape of sigma."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def weighted_loss(denoised: Tensor, y: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda * mean over a picture's values of (D - y)^2. denoised, y: (N, C, H, W); sigma: (N,). Returns (N,)."""
    return loss_weight(sigma, sigma_data) * (denoised - y).square().flatten(1).mean(dim=1)


def loss_floor(sigma: Tensor, s: Tensor, sigma_data: float) -> Tensor:
    """lambda s^2 / alpha: what the ambient target's variance adds to the loss of any denoiser. sigma, s: (N,)."""
    return loss_weight(sigma, sigma_data) * (s * sigma) ** 2 / ((sigma - s) * (sigma + s))


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
