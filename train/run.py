"""The folder of a run: where it continues, and what is written into it when."""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..curate.listing import PICTURE_EXTENSIONS
from ..curate.whole import PARTIAL, write_whole, writing
from ..schemas.errors import UserError
from . import checkpoint, ema, metrics
from .batches import trains_none
from .config import MAY_CHANGE, TrainConfig, first_difference
from .device import memory_for
from .generate import sample
from .monitor import Losses, Monitor, NotFinite
from .pictures import Pictures
from .rows import Rows
from .sampler import Sampler, slots
from .samples import save_grid
from .state import State, parts_of
from .world import World

if TYPE_CHECKING:
    from ..curate.reporter import Reporter

_ROWS_NAMED = 5  # rows named in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What ``report`` is told: a message for people, or, where that is empty, how far the work is.

    stage: ``reading`` (num_images of total decoded) or ``training`` (num_images of total trained on).
    losses, lr, images_per_s: of the pictures since the last report of training.
    """

    stage: str = "training"
    message: str = ""
    num_images: int = 0
    total: int = 0
    losses: Losses | None = None
    lr: float = 0.0
    images_per_s: float = 0.0


_NOTABLE_S = 0.1  # that a checkpoint stops the steps

Report = Callable[[Progress], None]


def spoken(reporter: "Reporter") -> Report:
    """A ``report`` for people: each message, and a line per line of metrics.jsonl."""

    def report(progress: Progress) -> None:
        done = f"{progress.num_images:,} of {progress.total:,} pictures"
        if progress.message:
            reporter.say(progress.message)
        elif progress.stage == "reading":
            reporter.say(f"reading: {done}")
        elif progress.losses is not None:
            left = (progress.total - progress.num_images) / progress.images_per_s
            speed = f"{progress.images_per_s:,.0f}/s, {left:,.0f} s left"
            reporter.say(f"training: {done}, loss {progress.losses.loss:.4f}, {speed}")

    return report


def check_folder(out: Path) -> None:
    """Raise UserError for a folder that is no run's and holds pictures or folders: a pool, say. A log may lie there."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the run")
    names = {child.name for child in out.iterdir()} if out.is_dir() else set()
    if names & {"lock", "config.json", "checkpoints"}:
        return
    foreign = [name for name in sorted(names) if (out / name).is_dir() or Path(name).suffix[1:] in PICTURE_EXTENSIONS]
    if foreign:
        raise UserError(f"{out} is no run and holds other things, such as {foreign[0]!r}: choose another -o")


class Run:
    """Keeps config.json, metrics.jsonl, samples/, checkpoints/ and ema/ of one training run.

    Checkpoints are copied at once and written behind the training, in order; leaving the context waits for them.
    """

    def __init__(
        self, out: Path, config: TrainConfig, rows: Rows, sampler: Sampler, world: World, report: Report
    ) -> None:
        self.out, self.config = out, config
        self.total = config.num_steps * config.batch_size
        self._rows, self._sampler, self._world, self._report = rows, sampler, world, report
        self._about = about_run(config, rows)
        self._clock, self._logged, self._saved = time.monotonic(), 0, -1
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ambient-checkpoint")
        self._writing: Future[Path] | None = None
        self._lock: IO[bytes] | None = None
        self._pictures: Pictures | None = None

    def __enter__(self) -> "Run":
        """Take the folder: raises UserError where another program trains in it."""
        if self._world.is_first:
            check_folder(self.out)
            with writing(self.out):
                self.out.mkdir(parents=True, exist_ok=True)
                self._lock = (self.out / "lock").open("ab")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._lock.close()
                raise UserError(f"another run is training in {self.out}: wait for it or choose another -o") from error
            for left in self.out.glob(f"*/*{PARTIAL}"):  # by a run that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(wait=True)
        if self._lock is not None:
            self._lock.close()

    def say(self, message: str) -> None:
        self._report(Progress(message=message, total=self.total))

    def say_reading(self, num_images: int, total: int) -> None:
        self._report(Progress(stage="reading", num_images=num_images, total=total))

    def resume(self, state: State) -> Path | None:
        """Restore the newest checkpoint, if there is one, and say which. Raises UserError where it is another run's."""
        found = checkpoint.newest(
            self.out,
            parts=parts_of(self.config),
            warn=self.say,
            check=lambda saved: check_same(self.out, saved, self._about),
        )
        if found is None:
            return None
        newest, saved = found
        state.restore(saved)
        self._saved = state.num_images
        what = "is finished" if state.num_images >= self.total else "continues"
        self.say(f"{self.out} {what}: {state.num_images:,} of {self.total:,} pictures")
        return newest

    def begin(self, state: State, manifest: Path) -> None:
        """Write config.json and cut metrics.jsonl back to where the run continues."""
        if not self._world.is_first:
            return
        where = {"device": str(self._world.device), "processes": self._world.size, "torch": torch.__version__}
        about = {**self._about, "manifest": str(manifest.resolve()), **where}
        with writing(self.out):
            (self.out / "samples").mkdir(parents=True, exist_ok=True)
            write_whole(self.out / "config.json", (json.dumps(about, indent=1) + "\n").encode())
            metrics.cut(self.out / "metrics.jsonl", state.num_images)

    def start(self, state: State, pictures: Pictures) -> None:
        """Call when the first step begins: reading pictures does not count as training."""
        self._pictures = pictures
        self._start_clock(state)

    def after_step(self, state: State, monitor: Monitor) -> None:
        """Log, draw samples and save where it is time for that."""
        config = self.config
        if self._writing is not None and self._writing.done():
            self._await_writer()
        due_log, due_grid, due_save = (
            self._due(every, state) for every in (config.log_images, config.sample_images, config.snapshot_images)
        )
        if due_log or due_grid or due_save:
            self._log(state, monitor)
        if due_grid and config.sample_count:
            self._grid(state)
        if due_save:
            self._save(state)
        if due_grid or due_save:
            self._start_clock(state)

    def finish(self, state: State, monitor: Monitor) -> Path:
        """Save this very moment. Returns the folder of the newest checkpoint, when it is on disk."""
        self._log(state, monitor)
        if self._saved != state.num_images:
            self._save(state)
        self._await_writer()
        self._world.wait()
        newest = self.out / "checkpoints" / f"{state.num_images:012d}"
        if state.num_images >= self.total:
            self.say(f"trained: {newest}; `ambient sample {self.out}` draws pictures")
        return newest

    def _save(self, state: State) -> None:
        """Have the first rank copy and write the state, and say how long that stopped the steps. Every rank calls."""
        start = time.monotonic()
        if not state.is_finite(self._world):
            raise UserError(f"the weights are not finite after {state.num_images:,} pictures: {self._remedy()}")
        self._saved = state.num_images
        if not self._world.is_first:
            state.help_checkpoint()
            return
        saved = state.to_checkpoint(self._about)
        self._await_writer()
        self._writing = self._writer.submit(self._write, saved)
        if (stood := time.monotonic() - start) >= _NOTABLE_S:
            self.say(f"checkpoint of {state.num_images:,} pictures: training stood still for {stood:.2f} s")

    def _write(self, saved: checkpoint.Checkpoint) -> Path:
        with writing(self.out):  # before the checkpoint: a run that continues from it stores these no more
            for i, sigma_rel in enumerate(self.config.ema_stds if saved.num_images else ()):  # of no step: no average
                ema.store(self.out, saved.num_images, sigma_rel, saved.parts[f"ema{i}"])
        return checkpoint.write(self.out, saved, keep=self.config.keep)

    def _await_writer(self) -> None:
        """Wait for the checkpoint that is being written; what went wrong with it is raised here."""
        if self._writing is not None:
            written, self._writing = self._writing, None
            written.result()

    def _due(self, every: int, state: State) -> bool:
        before = state.num_images - self.config.batch_size
        return state.num_images >= self.total or before // every != state.num_images // every

    def _log(self, state: State, monitor: Monitor) -> None:
        """One line of metrics.jsonl for the pictures since the last, if any. Raises UserError for a loss not finite."""
        if state.num_images == self._logged:
            return
        try:
            losses = monitor.read()
        except NotFinite as where:
            raise UserError(self._not_finite(where)) from where
        speed = (state.num_images - self._logged) / (time.monotonic() - self._clock)
        lr = self.config.lr_at(state.num_images - self.config.batch_size)
        figures = {"images": state.num_images, **asdict(losses), "lr": lr, "images_per_s": round(speed, 1)}
        if self._world.is_first:
            with writing(self.out):
                metrics.append(self.out / "metrics.jsonl", figures)
        progress = Progress(num_images=state.num_images, total=self.total, losses=losses, lr=lr, images_per_s=speed)
        self._report(progress)
        self._start_clock(state)

    def _start_clock(self, state: State) -> None:
        self._clock, self._logged = time.monotonic(), state.num_images

    def _grid(self, state: State) -> None:
        seeds = torch.arange(self.config.sample_count, device=next(state.average.parameters()).device)
        what = f"drawing {len(seeds)} pictures after {state.num_images:,} training pictures"
        remedy = f"the same command with `--set sample_count={len(seeds) // 4}` continues"
        with memory_for(what, remedy, self._world.device):
            pictures = sample(state.average, self.config, self._rows.space, seeds)
        if not self._world.is_first:
            return
        with writing(self.out):
            save_grid(self.out / "samples" / f"{state.num_images:012d}.png", pictures)

    def _not_finite(self, where: NotFinite) -> str:
        """Names the step and the rows, which are drawn again: nobody kept them."""
        row, sigma = self._sampler.draw(slots(where.num_images, self.config.batch_size))
        bad = where.bad.nonzero().flatten()
        named = ", ".join(f"{self._rows.uri(row[i])} at sigma {float(sigma[i]):.3g}" for i in bad[:_ROWS_NAMED])
        damaged = self._damaged(row[bad])
        return (
            f"the loss is not finite in step {where.num_images // self.config.batch_size} "
            f"(after {where.num_images:,} pictures) for {len(bad)} of {self.config.batch_size} pictures "
            f"({named}{', ...' if len(bad) > _ROWS_NAMED else ''}): {self._remedy(damaged)}"
        )

    def _damaged(self, rows: Tensor) -> list[str]:
        """Those among the rows whose pictures hold values that are not finite."""
        if self._pictures is None:
            return []
        gathered = self._pictures.gather(rows.to(self._pictures.device))
        fine = gathered.isfinite().flatten(1).all(dim=1).tolist()
        return sorted({self._rows.uri(row) for row, is_fine in zip(rows, fine, strict=True) if not is_fine})

    def _remedy(self, damaged: Sequence[str] = ()) -> str:
        self._writer.shutdown(wait=True)
        good = checkpoint.folders(self.out)
        last = f"; the last good checkpoint is {good[-1]}" if good else ""
        if damaged:
            more = ", ..." if len(damaged) > _ROWS_NAMED else ""
            named = f"{', '.join(damaged[:_ROWS_NAMED])}{more}"
            return f"values in {named} are not finite: annotate again without, and train in another folder{last}"
        return f"train in another folder with a lower lr or precision=fp32{last}"


def about_run(config: TrainConfig, rows: Rows) -> dict[str, Any]:
    """What decides what is learnt, as JSON."""
    return {
        "config": config.to_json(),
        "fingerprint": rows.fingerprint,
        "space": rows.space.to_json(),
        "trains_none": trains_none(rows, config),
    }


def check_same(out: Path, saved: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise UserError where the folder holds another run. saved, asked: ``about_run``."""
    # Through JSON, as what is saved went: tuples become lists.
    if difference := first_difference(_lasting(saved), _lasting(json.loads(json.dumps(asked)))):
        raise UserError(_other_run(out, *difference))


def _lasting(about: dict[str, Any]) -> dict[str, Any]:
    """What a run and its continuation must agree on: its length, too, where the learning rate depends on that."""
    config = about["config"]
    free = MAY_CHANGE if config["decay"] else {*MAY_CHANGE, "num_images"}
    return {**about, "config": {key: value for key, value in config.items() if key not in free}}


def _other_run(out: Path, key: str, saved: Any, asked: Any) -> str:
    if key == "fingerprint":
        return f"{out} was trained on another manifest (pictures or thresholds differ): choose another folder"
    return f"{out} was trained with {key.removeprefix('config.')} = {saved}, not {asked}: choose another folder"
