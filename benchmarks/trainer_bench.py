"""Programs that trainer_proofs.py runs: ``ambient train`` with its losses, killed on purpose, ended when time is up."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Curve = NDArray[np.float64]

WINDOW = 20  # steps over which curves are smoothed
PATIENCE = 90.0  # seconds for torchrun to end after one of its processes was killed; it gives the others 30
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}  # the trainer allows TF32 for what is float32; the yardstick has none


@dataclass(frozen=True, kw_only=True)
class Size:
    """steps: of a run, with a checkpoint half way and at the end. batch: pictures per step."""

    steps: int
    batch: int
    side: int
    pictures: int
    network: tuple[str, ...]


FULL = Size(
    steps=300, batch=256, side=32, pictures=4096, network=("network.channels=32", "network.blocks=2", "lr=1e-3")
)
TINY = Size(
    steps=120,
    batch=8,
    side=8,
    pictures=60,
    network=(
        "resolution=8",
        "network.channels=8",
        "network.multipliers=1,2",
        "network.blocks=1",
        "network.attention_resolutions=4",
    ),
)


class StoppedError(Exception):
    """A proof cannot go on: its time is up, or a program failed."""


@dataclass(kw_only=True)
class Bench:
    """Where proofs run. work: the manifest and a folder per run, made there or found from an earlier call.

    deadline: of ``time.monotonic()``. runs: losses and seconds of the runs of a proof so far; these are not run again.
    """

    work: Path
    size: Size
    device: str
    deadline: float = 0.0
    runs: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        return self.work / "manifest.parquet"

    def command(self, name: str, *settings: str, seed: int = 0, ranks: int = 1, place: int = 0) -> list[str]:
        """``ambient train`` into work/name, a line of metrics.jsonl a step. place: the GPU of a single process."""
        size = self.size
        always = [
            f"num_images={size.steps * size.batch}",
            f"batch_size={size.batch}",
            f"warmup_images={size.steps * size.batch // 15}",
            f"log_images={size.batch}",
            f"sample_images={size.steps * size.batch}",
            f"snapshot_images={size.steps * size.batch // 2}",
            "sample_count=0",
            f"seed={seed}",
        ]
        options = [part for setting in (*always, *size.network, *settings) for part in ("--set", setting)]
        train = ["ambient.cli", "train", str(self.manifest), "-o", str(self.work / name), "--preset", "cifar10"]
        alone = self.device == "cuda" and ranks == 1
        device = f"cuda:{place % torch.cuda.device_count()}" if alone else self.device
        return [*launcher(ranks), "-m", *train, "--device", device, *options]

    def curve(self, name: str) -> Curve:
        """(steps so far,) losses of a run."""
        path = self.work / name / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return np.array([json.loads(line)["loss"] for line in lines if line.endswith("\n")])

    def trained(
        self, name: str, *settings: str, seed: int = 0, ranks: int = 1, fp32: bool = False, place: int = 0
    ) -> Curve:
        """The losses of a whole run."""
        if name in self.runs:
            return np.array(self.runs[name]["loss"])
        settings = ("precision=fp32", "compile=off", *settings) if fp32 else settings
        begin = time.perf_counter()
        command = self.command(name, *settings, seed=seed, ranks=ranks, place=place)
        self.run(command, self.log(name), NO_TF32 if fp32 else {})
        curve = self.curve(name)
        self.runs[name] = {"seconds": round(time.perf_counter() - begin), "loss": curve.round(6).tolist()}
        say(f"{name}: loss {curve[-WINDOW:].mean():.4f}, {self.runs[name]['seconds']} s")
        return curve

    def side_by_side(self, *runs: tuple[str, dict[str, object]], settings: tuple[str, ...] = ()) -> list[Curve]:
        """``trained`` of several (name, options)."""
        with ThreadPoolExecutor(len(runs)) as pool:
            started = [
                pool.submit(self.trained, name, *settings, place=place, **options)  # type: ignore[arg-type]
                for place, (name, options) in enumerate(runs)
            ]
            return [run.result() for run in started]

    def run(self, command: list[str], log: Path, extra: dict[str, str]) -> None:
        """A program to its end, or to the deadline."""
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **extra})
            try:
                code = process.wait(timeout=max(0.0, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise StoppedError(f"{log.stem} was not finished; its last words: {tail(log, 300)}") from None
            finally:
                end(process)
        if code:
            raise StoppedError(f"exit code {code} of {' '.join(command)}\n{tail(log, 3000)}")

    def killed(self, name: str, *settings: str, ranks: int = 1, victims: int = 1) -> tuple[float, str]:
        """SIGKILL the last ``victims`` ranks between two checkpoints. Returns seconds to the end and the messages."""
        half = self.size.steps // 2
        with self.log(name).open("w") as log:
            variables = {**os.environ, "PYTHONFAULTHANDLER": "1"}
            command = self.command(name, *settings, ranks=ranks)
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
            try:
                while len(self.curve(name)) < half + self.size.steps // 15 or not self.checkpoints(name):
                    if process.poll() is not None:
                        raise StoppedError(f"{name} ended before it could be killed:\n{tail(self.log(name), 3000)}")
                    if time.monotonic() > self.deadline:
                        raise StoppedError(f"{name} was at step {len(self.curve(name))}")
                    time.sleep(0.02)
                pids = workers_of(process.pid) if ranks > 1 else [process.pid]
                for pid in pids[len(pids) - victims :]:
                    os.kill(pid, signal.SIGKILL)
                begin = time.perf_counter()
                process.wait(timeout=max(0.0, min(PATIENCE, self.deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                left = {pid: state_of(pid) for pid in (process.pid, *workers_of(process.pid))}
                for pid in workers_of(process.pid):
                    os.kill(pid, signal.SIGABRT)  # faulthandler writes where it hangs into the log
                time.sleep(2)
                words = tail(self.log(name), 6000)
                raise StoppedError(f"{name} did not end after its process was killed: {left}\n{words}") from None
            finally:
                end(process)
        say(f"{name}: killed at step {len(self.curve(name))}, ended after {time.perf_counter() - begin:.1f} s")
        return time.perf_counter() - begin, self.log(name).read_text()

    def checkpoints(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.work / name / "checkpoints").glob("[0-9]" * 12))

    def log(self, name: str) -> Path:
        return self.work / f"{name}.log"


def launcher(ranks: int) -> list[str]:
    if ranks == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


def end(process: "subprocess.Popen[bytes]") -> None:
    """Leave none of its processes behind."""
    for pid in workers_of(process.pid):
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()


def tail(log: Path, characters: int) -> str:
    return log.read_text()[-characters:]


def workers_of(torchrun: int) -> list[int]:
    """Process ids of the ranks that it started, in order."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_text().split("\0") if parent == torchrun else []
        except OSError:  # it ended meanwhile
            continue
        ranks |= {int(text[5:]): int(folder.name) for text in variables if text.startswith("RANK=")}
    return [pid for _, pid in sorted(ranks.items())]


def state_of(pid: int) -> str:
    """What the kernel says of a process: its name, state (D: cannot be killed) and what it waits for."""
    try:
        name, _, rest = (Path("/proc") / str(pid) / "stat").read_text().partition("(")[2].rpartition(")")
        return f"{name} {rest.split()[0]} {(Path('/proc') / str(pid) / 'wchan').read_text()}"
    except OSError as error:  # it ended meanwhile, or the kernel does not tell
        return error.strerror


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
