"""A trained denoiser, from the newest checkpoint of a run or as it was at an earlier moment."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..curate import digests
from ..schemas.errors import UserError
from ..schemas.space import Space
from .checkpoint import newest
from .config import TrainConfig
from .device import autocast, memory_for
from .ema import path_of, reconstruct
from .precondition import Denoiser
from .solvers import Denoise
from .state import build_denoiser, load_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """denoiser: with averaged weights, on its device. config, space: those of the run.

    num_images, ema_std: pictures seen, and length of the average.
    trains_none: whether the run trained the class "none". checksum: of the average of the run's first length then.
    """

    run: Path
    denoiser: Denoiser
    config: TrainConfig
    space: Space
    num_images: int
    ema_std: float
    trains_none: bool
    checksum: str


def load_trained(
    run: Path,
    device: torch.device,
    *,
    warn: Callable[[str], None],
    ema_std: float | None = None,
    at: int | None = None,
) -> Trained:
    """The averaged denoiser of a run. warn: told of a damaged checkpoint that was passed over.

    ema_std: length of the average, rebuilt from the stored ones; None for the first that the run kept.
    at: training pictures that the run had seen; None for the newest checkpoint.

    Raises UserError where the run has no checkpoint or kept no averages at that moment, or the device too little memory
    for the network.
    """
    found = newest(run, parts=("ema0",), warn=warn)
    if found is None:
        if run.is_dir() and not (run / "config.json").exists() and any(run.iterdir()):
            raise UserError(f"{run} is no run of `ambient train`: name the folder of one")
        if run.is_file():
            raise UserError(f"{run} is a file: name the folder of a run of `ambient train`")
        raise UserError(f"{run} has no checkpoint yet: train with `ambient train MANIFEST -o {run}`")
    _, checkpoint = found
    config = TrainConfig.from_json(checkpoint.about["config"])
    space = Space.from_json(checkpoint.about["space"])
    with memory_for("the weights of the network", "a GPU with more, or --device cpu, has room for them", device):
        denoiser = build_denoiser(config, space).to(device).eval().requires_grad_(False)
    weights, checksum = checkpoint.parts["ema0"], checkpoint.checksums["ema0"]
    num_images = checkpoint.num_images if at is None else at
    length = config.ema_stds[0] if ema_std is None else ema_std
    if ema_std is not None or at is not None:
        rebuilt = reconstruct(run, length, num_images=num_images)
        weights = {**weights, **{name: rebuilt[name] for name, _ in denoiser.named_parameters()}}  # buffers stay
    if at is not None:  # the same when the run goes on
        first = path_of(run, at, config.ema_stds[0])
        if not first.exists():
            raise UserError(f"{first} is missing: choose another moment")
        checksum = digests.of_file(first)
    load_weights(denoiser, weights)
    return Trained(
        run=run,
        denoiser=denoiser,
        config=config,
        space=space,
        num_images=num_images,
        ema_std=length,
        trains_none=checkpoint.about.get("trains_none", False),
        checksum=checksum,
    )


def told(denoiser: Denoiser, condition: Tensor | None, config: TrainConfig) -> Denoise:
    """The denoiser as solvers call it, told these classes (N,) int64, or None for "none", in the run's precision."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with autocast(x.device, config.precision):
            out: Tensor = denoiser(x, sigma.to(x.device), condition)
        return out

    return denoise
