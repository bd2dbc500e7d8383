"""Compiling ahead, while the first pool of a proof is written and annotated."""

import argparse
import fcntl
from collections.abc import Callable
from pathlib import Path

import torch
from ambient.curate.device import choose_device
from ambient.schemas.space import Space
from ambient.train.config import TrainConfig
from ambient.train.device import autocast, use_fast_kernels
from ambient.train.evaluate.judge import draw
from ambient.train.loop import compiled_shown
from ambient.train.state import build_denoiser
from ambient.train.trained import Trained
from tasks import Proof, training


def warm_up(proof: Proof, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Compile what trains and what samples, on pictures of noise, while the first pool is written and annotated.

    One program of several does so; the others find its code in the compiler's cache.
    """
    config = training(proof.settings, options)
    if config.compile != "on":
        return
    with (options.work / "claims" / f"{proof.name}.compiling").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (compiled := options.work / "claims" / f"{proof.name}.compiled").exists():
            _compile(proof, config, choose_device(options.device), say)
            compiled.touch()
            return
    _compile(proof, config, choose_device(options.device), say)


def _compile(proof: Proof, config: TrainConfig, device: torch.device, say: Callable[[str], None]) -> None:
    space = Space(resolution=proof.pictures.shape[1], channels=proof.channels)
    use_fast_kernels(device)
    model = build_denoiser(config, space).to(device)
    model.network.compile(dynamic=False)
    num = torch.arange(config.batch_size, device=device)
    w0, ones = torch.zeros(len(num), *space.shape, device=device), torch.ones(len(num), device=device)
    drawn = {"flip": config.flip, "probability": config.augment, "target": config.target}
    x_t, _, told = compiled_shown()(w0, num, num, ones, ones / 2, torch.zeros_like(num[0]), **drawn)
    with autocast(device, config.precision):
        denoised, _ = model(x_t, ones, None, augment=told, uncertain=True)
    denoised.square().mean().backward()
    say("the training step is compiled")
    model = build_denoiser(config, space).to(device).eval().requires_grad_(False)
    trained = Trained(
        run=Path(),
        denoiser=model,
        config=config,
        space=space,
        num_images=0,
        ema_std=config.ema_stds[0],
        trains_none=False,
        checksum="",
    )
    draw(trained, 1024, device)
    say("the sampler is compiled")
