"""The training loop."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..curate.parallel import stop_processes
from ..schemas.errors import UserError
from ..schemas.usable import BUFFER, beta_of
from . import augment
from .backward import Backward
from .batches import Batch, batches, conditions
from .config import TrainConfig
from .device import autocast, compile_network, memory_for, should_compile, use_fast_kernels
from .monitor import Monitor
from .pictures import open_pictures, with_pictures
from .remarks import remarks
from .rows import Rows, read_rows
from .run import Report, Run
from .sampler import Sampler
from .state import State, new_state
from .target import TARGETS, Target, fixed_noise, fresh_noise, loss_floor, weighted_loss
from .together import Interrupted
from .world import World, joined

Show = Callable[..., tuple[Tensor, Tensor, Tensor | None]]
"""``shown``, perhaps compiled."""

_ASK_EVERY = 16  # steps between asking the other ranks whether to stop
_WEIGHTS_REMEDY = "train on more GPUs with `--set sharding=fsdp`, or a smaller network"


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

    Started by torchrun, every process trains on its share of each batch, and the first one writes the files.
    out: folder of the run: config.json, metrics.jsonl, samples/, checkpoints/, ema/. roots: where the manifest's roots
    lie now. workers: threads or processes of a host that decode. stop: asked before each step, and while pictures are
    read; True saves a checkpoint and returns.
    Returns the folder of the newest checkpoint. Raises UserError for all that the user can put right.
    """
    with ExitStack() as at_end, joined(device) as world:
        at_end.callback(stop_processes)
        check_world(config, world)
        rows = read_rows(manifest, resolution=config.resolution, roots=roots)
        sampler, classes = build_sampler(rows, config), conditions(rows, config.num_classes)
        with memory_for("the weights, their moments and averages", _WEIGHTS_REMEDY, world.device):
            state = new_state(config, rows.space, world)
        with Run(out, config, rows, sampler, world, report if world.is_first else lambda _: None) as run:
            newest = run.resume(state)
            if newest and state.num_images >= run.total:
                return newest
            run.begin(state, manifest)
            for line in remarks(rows, config, sampler):
                run.say(line)
            monitor = Monitor(config.batch_size // world.size, world)
            try:
                pictures = open_pictures(
                    rows,
                    world.device,
                    world=world,
                    place=config.pictures,
                    workers=workers,
                    stop=stop,
                    say=run.say,
                    report=run.say_reading,
                )
            except Interrupted:
                return newest or run.finish(state, monitor)
            use_fast_kernels(world.device)
            if compiled := should_compile(world.device, config.compile, run.total - state.num_images, run.say):
                compile_network(state.denoiser.network)
            backward = build_backward(state, rows, config, world, compiled=compiled)
            run.start(state, pictures)
            stream = batches(
                rows, sampler, classes, config, start=state.num_images, world=world, pictures_on=pictures.device
            )
            for number, (batch, w0) in enumerate(with_pictures(stream, pictures, world.device)):
                if (world.size == 1 or number % _ASK_EVERY == 0) and world.any(stop()):
                    break
                with memory_for(*step_memory(state, config, world), world.device):
                    step(state, batch, w0, config, world, monitor, backward)
                run.after_step(state, monitor)
            return run.finish(state, monitor)


def step(
    state: State, batch: Batch, w0: Tensor, config: TrainConfig, world: World, monitor: Monitor, backward: Backward
) -> None:
    """One step on one batch, w0 (B, C, R, R) its pictures. Nothing waits for the device."""
    torch.manual_seed(config.seed + state.num_images + world.rank)  # dropout, too, is a function of progress
    for where, part in batch.parts(config.micro_batch):
        losses = backward(part, w0[where], len(batch.indices))
        monitor.add(losses["weighted"], losses["floor"], part.sigma, part.use, where.start, state.num_images)
    state.update(config, world)


def build_backward(state: State, rows: Rows, config: TrainConfig, world: World, *, compiled: bool = False) -> Backward:
    """Recorded where one GPU's part of a batch goes through the network at once, and keeps its own weights.

    compiled: what is drawn for a batch, too; the network is compiled by itself.
    """
    num = config.batch_size // world.size
    at_once = (config.micro_batch or num) >= num
    show = compiled_shown() if compiled else shown
    return Backward(
        lambda batch, w0: loss_of(state, batch, w0, rows, config, world.device, show),
        list(state.denoiser.parameters()),
        world.device,
        record=config.cuda_graphs and world.device.type == "cuda" and at_once and not state.sharded,
    )


def loss_of(
    state: State,
    batch: Batch,
    w0: Tensor,
    rows: Rows,
    config: TrainConfig,
    device: torch.device,
    show: Show | None = None,
) -> dict[str, Tensor]:
    """Losses (B,) of pictures w0 (B, C, R, R): ``weighted``, what is ``trained`` on, and the ambient ``floor``."""
    sigma_data = rows.space.sigma_data
    seed = torch.full((), config.seed, device=device)  # a number would be compiled in
    x_t, y, told = (show or shown)(
        w0,
        batch.names,
        batch.indices,
        batch.sigma,
        batch.s,
        seed,
        flip=config.flip,
        probability=config.augment,
        target=config.target,
    )
    with autocast(device, config.precision):
        denoised, u = state.denoiser(x_t, batch.sigma, batch.condition, augment=told, uncertain=True)
    weighted = weighted_loss(denoised, y, batch.sigma, sigma_data)
    floor = loss_floor(batch.sigma, batch.s, sigma_data) * (config.target == "ambient")
    return {"weighted": weighted, "trained": weighted * torch.exp(-u) + u, "floor": floor}


def shown(
    w0: Tensor,
    names: Tensor,
    indices: Tensor,
    sigma: Tensor,
    s: Tensor,
    seed: int | Tensor,
    *,
    flip: bool,
    probability: float,
    target: Target,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the denoiser sees of pictures w0 (B, C, R, R), what it is asked for, and what it is told of augmentation.

    names, indices, sigma, s: (B,) of a ``Batch``. flip, probability: of augmentation, the second if it is above 0.
    Returns x_t and y (B, C, R, R), and (B, 9) or None.
    """
    z = fixed_noise(names, w0.shape[1:], seed=seed)
    e = fresh_noise(indices, w0.shape[1:], seed=seed)
    told = None
    if probability:
        w0, flips, told = augment.geometric(w0, s, indices, probability=probability, seed=seed)
        w0, z = augment.flipped(w0, flips), augment.flipped(z, flips)
    elif flip:
        flips = augment.mirror(indices, seed=seed)
        w0, z = augment.flipped(w0, flips), augment.flipped(z, flips)
    x_t, y = TARGETS[target](w0, z, sigma, s, e)
    return x_t, y, told


@cache
def compiled_shown() -> Show:
    """``shown`` as few kernels, for fixed shapes."""
    return torch.compile(shown, dynamic=False)


def build_sampler(rows: Rows, config: TrainConfig) -> Sampler:
    """The configured sampler over these rows. Raises UserError where noise levels are uncovered."""
    return Sampler(
        rows.sigma_min,
        rows.sigma_max,
        P_mean=config.P_mean,
        P_std=config.P_std,
        beta=beta_of(config.buffer),
        seed=config.seed,
        clean=rows.clean if config.keep_composition else None,
        pool_share=rows.pool_share if config.buffer == BUFFER else None,  # which is of the default's usable pictures
    )


def check_world(config: TrainConfig, world: World) -> None:
    """Raise UserError where a batch cannot be shared evenly."""
    if config.batch_size % world.size:
        raise UserError(
            f"batch_size {config.batch_size} is not a multiple of the {world.size} processes: set one that is"
        )


def step_memory(state: State, config: TrainConfig, world: World) -> tuple[str, str]:
    """What a step needs memory for, and the remedy where there is too little."""
    now = min(config.micro_batch or config.batch_size, config.batch_size // world.size)
    less = f"the same command with `--set micro_batch={now // 2}` continues, at less speed"
    what = (
        f"step {state.num_images // config.batch_size} (after {state.num_images:,} pictures), {now} pictures at a time"
    )
    return what, less if now > 1 else _WEIGHTS_REMEDY
