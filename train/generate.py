"""Pictures from a run: seeds -> noise -> solver -> files. A picture depends on its seed, not on what else is drawn."""

import os
import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..curate.arguments import numbers
from ..curate.noise import Purpose, normals
from ..curate.reporter import Reporter
from ..curate.units import to_uint8
from ..curate.whole import writing
from ..schemas.errors import UserError
from ..schemas.space import Space
from .config import TrainConfig
from .device import device_of_process, memory_for
from .guidance import check_guidance, guided
from .precondition import Denoiser
from .samples import (
    FOLDER_SIZE,
    Settings,
    check_folder,
    check_packed,
    claim,
    find,
    load_pngs,
    pack,
    path_of,
    remove,
    save,
    save_grid,
)
from .solvers import SOLVERS, Denoise, sigma_steps
from .trained import Trained, load_trained, told

NUM_STEPS = 18
_PREVIEW = 64  # pictures in the grid
_POLL_S = 0.2

Draw = Callable[[Tensor], Tensor]
"""seeds (N,) int64 -> pictures (N, C, H, W) on the CPU: uint8 pixels, or float32 latents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """How to draw pictures.

    solver, steps: a name in ``solvers.SOLVERS`` and its number of steps. guidance: G of ``guidance.py``, 1 for none.
    ema_std: length of the average of the weights (arXiv 2312.02696, section 3), rebuilt from those stored; None for the
    first that the run kept. at: training pictures that the run had seen, a moment at which it stored averages; None for
    its newest checkpoint. guide_ema_std, guide_at: the same of the run to guide by.
    labels: classes that the seeds take in turn: seed s has labels[s mod their number]; None for all of the run's.
    """

    solver: Literal["heun", "euler"] = "heun"
    steps: int = NUM_STEPS
    guidance: float = 1.0
    ema_std: float | None = None
    at: int | None = None
    guide_ema_std: float | None = None
    guide_at: int | None = None
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.solver not in (solvers := typing.get_args(typing.get_type_hints(type(self))["solver"])):
            raise UserError(f"the solver must be one of {', '.join(solvers)}, not {self.solver!r}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if not abs(self.guidance) < float("inf"):
            raise UserError(f"guidance must be a number, 1 for none, not {self.guidance}")
        if wrong := [at for at in (self.at, self.guide_at) if at is not None and at < 1]:
            raise UserError(f"a moment of a run is a number of training pictures, at least 1, not {wrong[0]}")
        if self.labels == ():
            raise UserError("no label is given: name one class or more")


def generate(
    run: Path,
    out: Path,
    seeds: Sequence[int],
    config: SampleConfig | None = None,
    *,
    guide: Path | None = None,
    npz: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """Draw a picture per seed from a run's averaged weights; the same call again continues where a killed one was.

    guide: another run to guide by, or the same with other weights. out: a folder for PNG files, in folders of a
    thousand if there are more; with ``npz`` a file: ``arr_0`` (N, H, W, C), uint8 pixels or float32 latents in the
    order of the seeds, ``seed`` and ``label`` (N,) int64 (-1 for none), ``about`` in JSON.
    batch_size: pictures at a time. It changes pictures by rounding only; while it stays the same and no process draws
    fewer pictures than that, they are the same bit for bit in any order, share or continued run on one kind of device.

    Under torchrun each process draws every WORLD_SIZE-th seed, and the first one waits for the others.
    Returns the npz, or a grid of the first pictures, which lies beside ``out``. Raises UserError for what the user can
    put right: no checkpoint, labels or a guide that do not fit, other pictures in ``out``, a full disk.
    """
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    config = config or SampleConfig()
    reporter = reporter if reporter and rank == 0 else Reporter(quiet=True)
    _check_seeds(seeds, batch_size)
    where = device_of_process(device)
    work = _checked(run, out, seeds, config, where, reporter.warn, guide=guide, npz=npz)
    with writing(out):
        if work.is_packed:
            remove(work.folder)  # of a call that was killed before it had removed them
            reporter.say(f"{out} is complete")
            return out
        claim(work.folder, work.settings, temporary=npz)
        share = seeds[rank::world_size]
        draw = drawer(work.main, work.guide, config, work.labels)
        nested = max(seeds) >= FOLDER_SIZE
        _draw_into(work.folder, work.suffix, share, draw, batch_size, where, reporter, nested=nested)
        result = out if npz else (here := out.resolve()).with_name(f"{here.name}-grid.png")
        if rank == 0:
            paths = _complete(work, seeds)
            if npz:
                _pack_all(out, work, seeds, paths)
            else:
                save_grid(result, load_pngs(paths[:_PREVIEW]))
        reporter.say(f"{len(seeds):,} pictures in {out}" + ("" if npz else f"; the first of them: {result}"))
        return result


def plan(
    run: Path,
    out: Path,
    seeds: Sequence[int],
    config: SampleConfig,
    *,
    guide: Path | None = None,
    npz: bool = False,
    batch_size: int = 64,
) -> dict[str, Any]:
    """What ``generate`` would do, as JSON, with the same errors for runs that do not fit. Arguments as there."""
    _check_seeds(seeds, batch_size)
    work = _checked(run, out, seeds, config, torch.device("cpu"), Reporter().warn, guide=guide, npz=npz)
    left = 0 if work.is_packed else sum(find(work.folder, seed, work.suffix) is None for seed in seeds)
    evaluations = 2 * config.steps - 1 if config.solver == "heun" else config.steps
    return {
        **asdict(config),
        "run": str(run),
        "guide": str(guide) if guide else None,
        "checkpoint": work.main.checksum,
        "space": str(work.main.space),
        "labels": None if work.labels is None else work.labels.tolist(),
        "pictures": len(seeds),
        "pictures_to_draw": left,
        "denoiser_evaluations": left * evaluations * (1 if config.guidance == 1 else 2),
        "out": str(out),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What to draw with and where to. labels: from ``labels_of``. suffix: of the files in folder, one per seed.

    is_packed: whether the npz asked for is there, and complete.
    """

    main: Trained
    guide: Trained | None
    labels: Tensor | None
    settings: Settings
    folder: Path
    suffix: str
    is_packed: bool


def _checked(
    run: Path,
    out: Path,
    seeds: Sequence[int],
    config: SampleConfig,
    device: torch.device,
    warn: Callable[[str], None],
    *,
    guide: Path | None,
    npz: bool,
) -> _Work:
    """Load the runs and see that they, the configuration and what is at ``out`` fit. Raises UserError."""
    main = load_trained(run, device, warn=warn, ema_std=config.ema_std, at=config.at)
    other = None
    if guide:
        other = load_trained(guide, device, warn=warn, ema_std=config.guide_ema_std, at=config.guide_at)
    check_pixels(main, npz=npz)
    labels = labels_of(main, config)
    chosen = config.guide_ema_std is not None or config.guide_at is not None
    check_guidance(main, other, config.guidance, chosen=chosen)
    settings = {**asdict(config), "checkpoint": main.checksum, "guide": other.checksum if other else None}
    folder = out.with_name(out.name + ".parts") if npz else out
    with writing(out):
        if is_packed := npz and out.exists():
            check_packed(out, settings, seeds)
        check_folder(folder, settings, temporary=npz)
    return _Work(
        main=main,
        guide=other,
        labels=labels,
        settings=settings,
        folder=folder,
        suffix=".npy" if npz else ".png",
        is_packed=is_packed,
    )


def seeds_of(num: int | None, seeds: str | None) -> Sequence[int]:
    """The seeds that ``--num`` and ``--seeds`` name: 0 ... num - 1, by default 64, or those written as ``0-9,12``."""
    if seeds is None:
        return range(_PREVIEW if num is None else num)
    found = numbers(seeds, "--seeds")
    if num not in (None, len(found)):
        raise UserError(f"--num is {num}, but --seeds names {len(found)}: leave one of them out")
    return found


def initial_noise(seeds: Tensor, space: Space, sigma: float) -> Tensor:
    """(N, C, H, W) float32 noise of standard deviation sigma; each picture's depends on its seed (N,) int64 only."""
    count = space.channels * space.resolution**2
    return sigma * normals(seeds, count, seed=0, purpose=Purpose.SAMPLE).view(-1, *space.shape)


def solve(denoise: Denoise, space: Space, seeds: Tensor, config: SampleConfig) -> Tensor:
    """(N, C, H, W) float32 in the Space: the denoiser's pictures, one per seed (N,) int64 on its device."""
    sigmas = sigma_steps(config.steps).float()
    return SOLVERS[config.solver](denoise, initial_noise(seeds, space, float(sigmas[0])), sigmas)


def sample(denoiser: Denoiser, config: TrainConfig, space: Space, seeds: Tensor) -> Tensor:
    """(N, C, H, W) uint8 pictures on the CPU, one per seed; of a conditional denoiser, class seed mod num_classes.

    config, space: those of the denoiser. seeds: (N,) int64 on its device.
    """
    condition = seeds % config.num_classes if config.num_classes else None
    return to_uint8(solve(told(denoiser, condition, config), space, seeds, SampleConfig())).cpu()


def drawer(main: Trained, guide: Trained | None, config: SampleConfig, labels: Tensor | None) -> Draw:
    """What draws pictures of a trained denoiser. labels: from ``labels_of``."""

    def draw(seeds: Tensor) -> Tensor:
        classes = None if labels is None else labels.to(seeds.device)[seeds % len(labels)]
        denoise = told(main.denoiser, classes, main.config)
        if config.guidance != 1:
            away = guide or main
            none = torch.full_like(seeds, away.config.num_classes)
            other = (classes if guide else none) if away.config.num_classes else None
            denoise = guided(denoise, told(away.denoiser, other, away.config), config.guidance)
        x = solve(denoise, main.space, seeds, config)
        return (to_uint8(x) if main.space.kind == "pixel" else x).cpu()

    return draw


def labels_of(main: Trained, config: SampleConfig) -> Tensor | None:
    """(K,) int64 classes that the seeds take in turn, or None for an unconditional run. Raises UserError."""
    num = main.config.num_classes
    if num == 0:
        if config.labels:
            raise UserError(f"{main.run} was trained without classes: leave --labels out")
        return None
    if wrong := [label for label in config.labels or () if not 0 <= label < num]:
        raise UserError(f"{main.run} was trained with classes 0 to {num - 1}: there is no class {wrong[0]}")
    return torch.tensor(config.labels or range(num))


def check_pixels(main: Trained, *, npz: bool) -> None:
    """Raise UserError where there are no pictures to write as PNG files."""
    if main.space.kind == "latent" and not npz:
        raise UserError(
            f"{main.run} draws {main.space}, and there is no decoder to make pictures of them: use --npz FILE"
        )


def _draw_into(
    folder: Path,
    suffix: str,
    seeds: Sequence[int],
    draw: Draw,
    batch_size: int,
    device: torch.device,
    reporter: Reporter,
    *,
    nested: bool,
) -> None:
    """Draw and write the pictures of those seeds that have none yet.

    Every batch has the same size, filled up at the end: the kernels, and so the rounding, depend on it.
    """
    left = [seed for seed in seeds if find(folder, seed, suffix) is None]
    size = max(1, min(batch_size, len(seeds)))
    with reporter.track("sampling", len(left)) as advance:
        for start in range(0, len(left), size):
            some = left[start : start + size]
            filled = some + some[-1:] * (size - len(some))
            what = f"drawing {size:,} pictures at a time" if size > 1 else "drawing a picture"
            with memory_for(what, _remedy(size, device), device):
                drawn = draw(torch.tensor(filled, device=device))
            for seed, picture in zip(some, drawn, strict=False):
                save(path_of(folder, seed, suffix, nested=nested), picture)
            advance(len(some))


def _remedy(size: int, device: torch.device) -> str:
    """What to do where a device has too little memory for that many pictures at a time."""
    if size > 1:
        return f"the same command with `--batch {max(1, size // 4)}` continues"
    if device.type == "cpu":
        return "continue on a machine with more, or train a smaller network"
    return "the same command with `--device cpu`, or on a GPU with more, continues"


def _complete(work: _Work, seeds: Sequence[int]) -> list[Path]:
    """The files of these seeds, when all processes have written theirs."""
    paths = []
    for seed in seeds:
        while (path := find(work.folder, seed, work.suffix)) is None:
            time.sleep(_POLL_S)
        paths.append(path)
    return paths


def _pack_all(npz: Path, work: _Work, seeds: Sequence[int], paths: Sequence[Path]) -> None:
    """Pack the files of all processes into one npz, and remove them."""
    numbers = torch.tensor(seeds)
    classes = torch.full_like(numbers, -1) if work.labels is None else work.labels[numbers % len(work.labels)]
    pack(npz, paths, seeds=seeds, labels=classes, settings=work.settings)
    remove(work.folder)


def _check_seeds(seeds: Sequence[int], batch_size: int) -> None:
    if len(seeds) == 0 or batch_size < 1:
        raise UserError(f"there must be a seed, and a picture to a batch: not {len(seeds)} and {batch_size}")
    if min(seeds) < 0 or max(seeds) >= 2**63:
        raise UserError(f"seeds lie between 0 and 2^63: not {min(seeds)} to {max(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise UserError("a seed is named twice, and its picture would be, too: name each once")
