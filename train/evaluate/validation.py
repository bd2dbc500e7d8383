"""How well a denoiser denoises, level by level, pictures that it has never seen, or has: no sampling, little chance."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...curate.noise import Purpose, normals
from ...curate.units import to_unit

LEVELS = tuple(float(level) for level in np.geomspace(0.02, 40.0, 16))
"""Noise levels at which denoising is measured."""

_BATCH_VALUES = 2**20  # of pictures that are denoised at a time on a CPU; a GPU takes sixteen times as many

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (N, C, H, W), sigma (N,), condition (N,) or None) -> estimate of x_0, shaped as x."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """errors: (levels, N) float64, mean over a picture's values of (D - x_0)^2, one noise per picture and level."""

    levels: tuple[float, ...]
    errors: NDArray[np.float64]

    def to_json(self) -> dict[str, list[float]]:
        """Mean over pictures at each level, and its standard error."""
        spread = self.errors.std(axis=1, ddof=1) / self.errors.shape[1] ** 0.5
        return {"sigma": list(self.levels), "mean": self.errors.mean(axis=1).tolist(), "error": spread.tolist()}


@torch.no_grad()
def validate(
    denoiser: Denoiser,
    pixels: Tensor,
    names: Tensor,
    condition: Tensor | None,
    *,
    seed: int,
    device: torch.device,
    levels: tuple[float, ...] = LEVELS,
) -> Validation:
    """Denoising errors on pictures (N, C, R, R) uint8.

    names: (N,) int64, of their noise: the same for every denoiser, so that differences between denoisers are those of
    the denoisers. condition: (N,) int64 classes, or None. seed: of the noise.
    """
    batch = max(1, _BATCH_VALUES * (16 if device.type == "cuda" else 1) // pixels[0].numel())
    errors = np.zeros((len(levels), len(pixels)))
    for start in range(0, len(pixels), batch):
        part = slice(start, start + batch)
        x0, told = to_unit(pixels[part].to(device)), None if condition is None else condition[part].to(device)
        for number, level in enumerate(levels):
            z = normals(
                names[part].to(device), x0[0].numel(), seed=seed, purpose=Purpose.VALIDATE, index=number
            ).view_as(x0)
            sigma = torch.full((len(x0),), level, device=device)
            found = denoiser(x0 + level * z, sigma, told)
            errors[number, part] = (found.double() - x0.double()).square().flatten(1).mean(dim=1).cpu().numpy()
    return Validation(levels=levels, errors=errors)
