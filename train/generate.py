"""Pictures from a denoiser: EDM's deterministic Heun sampler, and ``generate`` from a run's newest checkpoint."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..curate.device import choose_device
from ..curate.images import to_uint8
from ..curate.noise import Purpose, normals
from ..schemas.errors import UserError
from ..schemas.space import Space
from .checkpoint import newest
from .config import TrainConfig
from .device import autocast
from .files import write_whole, writing
from .precondition import Denoiser
from .state import build_denoiser, load_weights

NUM_STEPS = 18
SIGMA_LOW, SIGMA_HIGH, RHO = 0.002, 80.0, 7.0

Denoise = Callable[[Tensor, Tensor], Tensor]


def sigma_steps(num: int = NUM_STEPS, *, low: float = SIGMA_LOW, high: float = SIGMA_HIGH, rho: float = RHO) -> Tensor:
    """Noise levels from high to low, then 0 (arXiv 2206.00364, eq. 5). Returns (num + 1,) float64."""
    ramp = torch.linspace(0, 1, num, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


@torch.no_grad()
def heun(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Solve dx/dsigma = (x - D(x, sigma)) / sigma by Heun's method (arXiv 2206.00364, algorithm 1 without churn).

    denoise: (x, sigma ()) -> D. x: (N, C, H, W) at level sigmas[0]. sigmas: (K + 1,) descending; a last level of 0
    gets an Euler step, so K steps to 0 cost 2 K - 1 evaluations. Returns x at the last level, in x's dtype.
    """
    for now, then in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
            ahead = x + (then - now) * slope
        x = ahead
    return x


def initial_noise(seeds: Tensor, space: Space, sigma: float) -> Tensor:
    """(N, C, H, W) float32 noise of standard deviation sigma; each picture's depends on its seed (N,) int64 only."""
    count = space.channels * space.resolution**2
    return sigma * normals(seeds, count, seed=0, purpose=Purpose.SAMPLE).view(-1, *space.shape)


def sample(denoiser: Denoiser, config: TrainConfig, space: Space, seeds: Tensor, *, steps: int = NUM_STEPS) -> Tensor:
    """(N, C, H, W) uint8 pictures on the CPU, one per seed; of a conditional denoiser, class seed mod num_classes.

    config, space: those of the denoiser. seeds: (N,) int64 on its device.
    """
    sigmas = sigma_steps(steps).float()
    condition = seeds % config.num_classes if config.num_classes else None

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with autocast(x.device, config.precision):
            out: Tensor = denoiser(x, sigma.to(x.device), condition)
        return out

    return to_uint8(heun(denoise, initial_noise(seeds, space, float(sigmas[0])), sigmas)).cpu()


def save_picture(path: Path, picture: Tensor) -> None:
    """Write (C, H, W) uint8, C = 1 or 3, as PNG."""
    array = picture.permute(1, 2, 0).numpy()
    data = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(data, "png")
    write_whole(path, data.getvalue())


def save_grid(path: Path, pictures: Tensor, *, columns: int | None = None, zoom: int = 1) -> None:
    """Write (N, C, H, W) uint8 as one PNG, row by row; cells left over are black.

    columns: by default as near to a square grid as N allows. zoom: screen pixels per pixel and side.
    """
    num, channels, height, width = pictures.shape
    columns = columns or max(1, round(num**0.5))
    lines = -(-num // columns)
    grid = pictures.new_zeros(lines * columns, channels, height, width)
    grid[:num] = pictures
    grid = grid.view(lines, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    grid = grid.reshape(channels, lines * height, columns * width)
    save_picture(path, grid.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2))


def generate(
    run: Path,
    out: Path,
    *,
    num: int = 64,
    seed: int = 0,
    steps: int = NUM_STEPS,
    batch_size: int = 64,
    device: str = "auto",
    report: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Path:
    """Pictures seed ... seed + num - 1 of a run's averaged weights, as out/000000.png ... and out/grid.png.

    A picture depends on its seed, not on num or batch_size. report: called with (pictures done, of how many).
    warn: told of a damaged checkpoint that was passed over. Returns the path of the grid.
    Raises UserError where the run has no checkpoint.
    """
    if num < 1 or steps < 1 or batch_size < 1:
        raise UserError(f"num, steps and batch_size must be at least 1, not {num}, {steps} and {batch_size}")
    where = choose_device(device)
    found = newest(run, parts=("ema0",), warn=warn)
    if found is None:
        raise UserError(f"{run} has no checkpoint yet: train with `ambient train MANIFEST -o {run}`")
    _, checkpoint = found
    config = TrainConfig.from_json(checkpoint.about["config"])
    space = Space.from_json(checkpoint.about["space"])
    denoiser = build_denoiser(config, space).to(where).eval()
    load_weights(denoiser, checkpoint.parts["ema0"])
    done: list[Tensor] = []
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for seeds in torch.split(torch.arange(seed, seed + num, device=where), batch_size):
            done.append(sample(denoiser, config, space, seeds, steps=steps))
            for one, picture in zip(seeds.tolist(), done[-1], strict=True):
                save_picture(out / f"{one:06d}.png", picture)
            if report:
                report(sum(map(len, done)), num)
        save_grid(out / "grid.png", torch.cat(done))
    return out / "grid.png"
