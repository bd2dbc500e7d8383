"""The training loop."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..curate.device import choose_device
from ..schemas.usable import beta_of
from .batches import batches, conditions
from .config import TrainConfig
from .data import Rows, load_pictures, read_rows
from .device import autocast, should_compile, use_fast_kernels
from .monitor import Monitor
from .run import Report, Run
from .sampler import Sampler
from .state import new_state
from .target import TARGETS, fixed_noise, fresh_noise, loss_floor, weighted_loss


def train(
    manifest: Path,
    out: Path,
    config: TrainConfig,
    *,
    device: str = "auto",
    roots: dict[str, str] | None = None,
    workers: int = 2,
    stop: Callable[[], bool] = lambda: False,
    report: Report = lambda _: None,
) -> Path:
    """Train a denoiser on a manifest; the same call again continues where a stopped or killed one was.

    out: folder of the run: config.json, metrics.jsonl, samples/, checkpoints/. roots: where the manifest's roots lie
    now. workers: threads that decode. stop: asked before each step; True saves a checkpoint and returns.
    Returns the folder of the newest checkpoint. Raises UserError for all that the user can put right.
    """
    where = choose_device(device)
    rows = read_rows(manifest, resolution=config.resolution, roots=roots)
    sampler, classes = build_sampler(rows, config), conditions(rows, config.num_classes)
    state = new_state(config, rows.space, where)
    run = Run(out, config, rows, sampler, report)
    run.resume(state)
    if run.newest and state.num_images >= run.total:
        return run.newest
    run.begin(state, manifest, where)
    pictures = load_pictures(rows, where, workers=workers, report=run.say_reading)

    use_fast_kernels(where)
    if should_compile(where, config.compile, run.total - state.num_images):
        state.denoiser.network.compile(dynamic=False)
    make_target, shape, sigma_data = TARGETS[config.target], rows.space.shape, rows.space.sigma_data
    monitor = Monitor(config.batch_size, where)
    run.start_clock(state)
    for batch in batches(rows, sampler, classes, config, start=state.num_images, device=where):
        if stop():
            break
        torch.manual_seed(config.seed + state.num_images)  # dropout, too, is a function of progress
        w0 = pictures.gather(batch.rows, where)
        z = fixed_noise(batch.names, shape, seed=config.seed)
        e = fresh_noise(batch.indices, shape, seed=config.seed)
        x_t, y = make_target(w0, z, batch.sigma, batch.s, e)
        with autocast(where, config.precision):
            denoised = state.denoiser(x_t, batch.sigma, batch.condition)
        losses = weighted_loss(denoised, y, batch.sigma, sigma_data)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        floors = loss_floor(batch.sigma, batch.s, sigma_data) * (config.target == "ambient")
        monitor.add(losses.detach(), floors, batch.sigma, state.num_images)
        state.update(config)
        run.after_step(state, monitor)
    return run.save(state, monitor)


def build_sampler(rows: Rows, config: TrainConfig) -> Sampler:
    """The configured sampler over these rows. Raises UserError where noise levels are uncovered."""
    return Sampler(
        rows.sigma_min,
        rows.sigma_max,
        P_mean=config.P_mean,
        P_std=config.P_std,
        beta=beta_of(config.buffer),
        seed=config.seed,
    )
