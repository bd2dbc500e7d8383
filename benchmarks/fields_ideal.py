"""What each arm of fields_training.py would learn from endless fields, in closed form."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ambient.curate.threshold import crossing, isotonic, sigma_grid
from ambient.schemas.usable import BETA
from ambient.train.target import Target, fresh_noise
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fields import Fields

BLURS = (0.4, 0.6, 0.8)
SHARE_CLEAN = 0.02
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """rows: ``clean`` or ``all``. obeys: whether blurred fields have their thresholds, or 0 as clean ones."""

    rows: str
    obeys: bool
    target: Target


ARMS = {
    "clean only": Arm(rows="clean", obeys=False, target="plain"),
    "all as equal": Arm(rows="all", obeys=False, target="plain"),
    "thresholds (ambient)": Arm(rows="all", obeys=True, target="ambient"),
    "thresholds (plain)": Arm(rows="all", obeys=True, target="plain"),
}


def oracle_sigma_min(
    fields: Fields, blur: float, epsilon: float, device: torch.device = CPU, *, num: int = 256, draws: int = 16
) -> float:
    """Where the best classifier's mean p_clean over fields of one blur, told from clean, crosses 0.5 - epsilon."""
    grid = sigma_grid()
    blurred = fields.draw(num, blur=blur, seed=12345)
    curve = np.empty((1, len(grid)))
    for k, sigma in enumerate(grid):
        z = torch.randn(draws, *blurred.shape, generator=torch.Generator().manual_seed(k))
        x = (blurred + float(sigma) * z).flatten(0, 1).to(device)
        with device:
            logit = fields.optimal_logit(x, torch.tensor([sigma]), blurs=[blur])
        curve[0, k] = float(torch.sigmoid(logit).mean())
    return float(crossing(isotonic(curve), grid, 0.5 - epsilon)[0])


def ideal_excess(
    fields: Fields, arm: str, floors: dict[float, float], sigma: float, device: torch.device = CPU, *, num: int = 2048
) -> float:
    """Excess error on clean fields, as ``excess_error``, of the best denoiser of what an arm trains on at sigma.

    Both targets have the same: given x_t, the ambient one has the plain one's mean, if the noise z is fresh.
    """
    used = {0.0: SHARE_CLEAN}
    if ARMS[arm].rows == "all":
        for blur, floor in floors.items():
            if not ARMS[arm].obeys or sigma > BETA * floor:
                used[blur] = (1 - SHARE_CLEAN) / len(floors)
    x = fields.draw(num, seed=7) + sigma * fresh_noise(torch.arange(num), (1, *fields.power().shape), seed=99)
    x = x.to(device)
    with device:
        wrong = mixture_denoiser(fields, x, sigma, used) - fields.optimal_denoiser(x, torch.tensor([sigma]))
    return float(wrong.square().mean()) / fields.optimal_error(sigma)


def mixture_denoiser(fields: Fields, x: Tensor, sigma: float, shares: dict[float, float]) -> Tensor:
    """E[w_0 | x] where a share of the fields w_0 has each blur (0: clean), x = w_0 + sigma * noise.

    Each component's Wiener filter, weighted by how likely x is to come from it. x: (N, 1, R, R). Returns float32.
    """
    spectrum = torch.fft.fft2(x.double()[:, 0], norm="ortho")
    energy, level = spectrum.abs().square(), torch.tensor([sigma])
    powers = [fields.power() * fields.transfer(blur) ** 2 for blur in shares]
    likely = [fields.log_likelihood(energy, level, blur=b) + math.log(share) for b, share in shares.items()]
    posterior = torch.softmax(torch.stack(likely), dim=0)
    gain = sum(q[:, None, None] * power / (power + sigma**2) for q, power in zip(posterior, powers, strict=True))
    return torch.fft.ifft2(spectrum * gain, norm="ortho").real.float()[:, None]
