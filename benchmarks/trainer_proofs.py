"""Does the trainer keep its promises on this machine? Each proof prints a table and adds itself to a JSON file.

    python benchmarks/trainer_proofs.py precision resume --out proofs.json                     # one GPU
    python benchmarks/trainer_proofs.py world resize killed speed --out proofs.json            # two GPUs of one host
    python benchmarks/trainer_proofs.py precision resume world resize killed speed --tiny --device cpu --out tiny.json

``precision``: bf16 compiled against fp32 eager. ``world``: DDP and FSDP on two GPUs against one. ``resume``: SIGKILL
and the same command again. ``resize``: begun on two GPUs, killed, continued on one. ``killed``: one of two processes
gets SIGKILL. ``speed``: preset cifar10 on one and on two GPUs, ``--arms`` of them.

All but ``speed`` train 300 steps of a small DDPM++ on Gaussian fields, two thirds of them with thresholds, through
``ambient train``. The yardstick of curves is the root mean square difference between runs that differ in the seed
alone (``precision``, ``world``, ``resize``), or in nothing (``resume``). Curves are smoothed over 20 steps, except in
``resume``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from ambient.curate.device import choose_device
from ambient.schemas.space import Space
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from small_pool import write_pool

Curve = NDArray[np.float64]

WINDOW = 20  # steps over which curves are smoothed
COMPARED = 50  # steps after a resumption
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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where proofs run. work: the manifest and a folder per run, made there or found from an earlier call."""

    work: Path
    size: Size
    device: str
    arms: tuple[str, ...]

    @property
    def manifest(self) -> Path:
        return self.work / "manifest.parquet"

    def command(self, name: str, *settings: str, seed: int = 0, ranks: int = 1) -> list[str]:
        """``ambient train`` into work/name, one line of metrics.jsonl a step."""
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
        return [*launcher(ranks), "-m", *train, "--device", self.device, *options]

    def curve(self, name: str) -> Curve:
        """(steps so far,) losses of a run."""
        path = self.work / name / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return np.array([json.loads(line)["loss"] for line in lines if line.endswith("\n")])

    def trained(self, name: str, *settings: str, seed: int = 0, ranks: int = 1, fp32: bool = False) -> Curve:
        """The losses of a whole run; one that is finished is not run again."""
        settings = ("precision=fp32", "compile=off", *settings) if fp32 else settings
        begin = time.perf_counter()
        run(self.command(name, *settings, seed=seed, ranks=ranks), self.log(name), NO_TF32 if fp32 else {})
        curve = self.curve(name)
        say(f"{name}: loss {curve[-WINDOW:].mean():.4f}, {time.perf_counter() - begin:.0f} s")
        return curve

    def killed(self, name: str, *settings: str, ranks: int = 1, victims: int = 1) -> tuple[float, str]:
        """SIGKILL the last ``victims`` ranks between two checkpoints. Returns seconds to the end and the messages."""
        half = self.size.steps // 2
        with self.log(name).open("w") as log:
            process = subprocess.Popen(self.command(name, *settings, ranks=ranks), stdout=log, stderr=log)
            try:
                while len(self.curve(name)) < half + self.size.steps // 15 or not self.checkpoints(name):
                    if process.poll() is not None:
                        sys.exit(f"{name} ended before it could be killed:\n{self.log(name).read_text()[-3000:]}")
                    time.sleep(0.02)
                pids = workers_of(process.pid) if ranks > 1 else [process.pid]
                for pid in pids[len(pids) - victims :]:
                    os.kill(pid, signal.SIGKILL)
                begin = time.perf_counter()
                process.wait(timeout=170)
            finally:
                for pid in workers_of(process.pid):
                    os.kill(pid, signal.SIGKILL)
                process.kill()
        say(f"{name}: killed at step {len(self.curve(name))}, ended after {time.perf_counter() - begin:.1f} s")
        return time.perf_counter() - begin, self.log(name).read_text()

    def checkpoints(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.work / name / "checkpoints").glob("[0-9]" * 12))

    def log(self, name: str) -> Path:
        return self.work / f"{name}.log"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proofs", nargs="+", choices=PROOFS)
    parser.add_argument("--out", type=Path, required=True, help="JSON; proofs that it holds already are replaced")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a check of the script itself")
    parser.add_argument("--arms", default="one,two,split", help="of speed: one GPU, two with twice or the same batch")
    parser.add_argument("--work", type=Path, help="keeps runs here, and uses those that are finished")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)) / ("tiny" if arguments.tiny else "full")
        size = TINY if arguments.tiny else FULL
        bench = Bench(work=work, size=size, device=arguments.device, arms=tuple(arguments.arms.split(",")))
        if not bench.manifest.exists():
            work.mkdir(parents=True, exist_ok=True)
            write_pool(work, num=size.pictures, space=Space(resolution=size.side, channels=3))
        for name in arguments.proofs:
            begin = time.perf_counter()
            rows = PROOFS[name](bench)
            seconds = round(time.perf_counter() - begin)
            keep(arguments.out, name, rows, seconds, arguments)
            print(f"\n{name} ({seconds} s)\n\n{table(rows)}", flush=True)


Rows = list[dict[str, object]]


def precision(bench: Bench) -> Rows:
    fp32 = [bench.trained(f"fp32-{seed}", seed=seed, fp32=True) for seed in (0, 1)]
    bf16 = [bench.trained(f"bf16-{seed}", "precision=bf16", "compile=on", seed=seed) for seed in (0, 1)]
    return [
        yardstick("fp32, seed 0 to 1", *fp32),
        *(against(f"bf16 compiled to fp32 eager, seed {k}", bf16[k], fp32[k], fp32) for k in (0, 1)),
    ]


def world(bench: Bench) -> Rows:
    one = [bench.trained(f"one-{seed}", "compile=off", seed=seed) for seed in (0, 1)]
    rows = [yardstick("one process, seed 0 to 1", *one)]
    for sharding in ("ddp", "fsdp"):
        two = bench.trained(sharding, "compile=off", f"sharding={sharding}", ranks=2)
        rows.append(against(f"two processes, {sharding}, to one", two, one[0], one))
    return rows


def resume(bench: Bench) -> Rows:
    """Equal runs differ in what rounding grows to; not smoothed, over the steps after the checkpoint."""
    same = [bench.trained(f"undisturbed-{k}") for k in range(3)]
    bench.killed("resumed")
    resumed = bench.trained("resumed")
    half = bench.size.steps // 2
    part = slice(half, half + COMPARED)
    between = [rms(a[part], b[part]) for a, b in combinations(same, 2)]
    to_these = [rms(resumed[part], curve[part]) for curve in same]
    others = rms(same[0][part], same[0][half + 1 : half + COMPARED + 1])
    return [
        {"what": "between three undisturbed runs", "rms": max(between), "least": min(between)},
        {"what": "resumed after SIGKILL, to each of them", "rms": float(np.mean(to_these)), "least": min(to_these)}
        # Four equal runs: a mean above every distance between the other three is not rare, one of twice that is.
        | {"within": float(np.mean(to_these)) <= 2 * max(between), "all steps there": len(resumed) == len(same[0])},
        {"what": "a run to itself one step later (other pictures)", "rms": others},
    ]


def resize(bench: Bench) -> Rows:
    one = [bench.trained(f"one-{seed}", "compile=off", seed=seed) for seed in (0, 1)]
    rows = [yardstick("one process, seed 0 to 1", *one)]
    for sharding in ("ddp", "fsdp"):
        name, settings = f"{sharding}-then-one", ("compile=off", f"sharding={sharding}")
        bench.killed(name, *settings, ranks=2, victims=2)
        rows.append(
            against(f"two processes, {sharding}, killed; then one", bench.trained(name, *settings), one[0], one)
        )
    return rows


def killed(bench: Bench) -> Rows:
    """One of two processes dies; the other says so, torchrun ends, and one process finishes the run."""
    seconds, messages = bench.killed("lost", "compile=off", "sharding=ddp", ranks=2)
    told = [line for line in messages.splitlines() if line.startswith("ambient: ")]
    left = bench.checkpoints("lost")
    curve = bench.trained("lost", "compile=off", "sharding=ddp")
    return [
        {"what": "seconds from SIGKILL to the end of all", "seconds": round(seconds, 1), "within": seconds < 60},
        {"what": "checkpoints left", "checkpoints": left},
        {"what": "steps after the same command again", "steps": len(curve), "within": len(curve) == bench.size.steps},
        {"what": f"told: {' / '.join(told) or 'nothing'}"},
    ]


def speed(bench: Bench) -> Rows:
    """Preset cifar10 by train_step.py, with the arms measured by earlier calls in the same --work."""
    tiny = bench.size is TINY
    batch, steps = (8, "5") if tiny else (512, "40")
    network = [part for setting in bench.size.network for part in ("--set", setting)] if tiny else []
    script = [str(Path(__file__).with_name("train_step.py")), "cifar10", "--device", bench.device, "--steps", steps]
    rows: Rows = []
    for arm, ranks, global_batch in (("one", 1, batch), ("two", 2, 2 * batch), ("split", 2, batch)):
        log = bench.log(f"speed-{arm}")
        if arm in bench.arms:
            run([*launcher(ranks), *script, "--set", f"batch_size={global_batch}", *network], log, {})
        elif not log.exists():
            continue
        found = json.loads(next(line for line in log.read_text().splitlines() if line.startswith('{"preset"')))
        figures = {key: found[key] for key in ("pictures_per_s", "data_path_share", "first_step_s", "memory_gib")}
        rows.append({"what": arm, "processes": ranks, "batch": global_batch, **figures})
        say(f"{arm}: {found['pictures_per_s']} pictures/s")
    if rows and rows[0]["what"] == "one":
        for row in rows:
            row["ratio"] = row["pictures_per_s"] / rows[0]["pictures_per_s"]  # type: ignore[operator]
    return rows


PROOFS = {
    "precision": precision,
    "world": world,
    "resume": resume,
    "resize": resize,
    "killed": killed,
    "speed": speed,
}


def yardstick(what: str, a: Curve, b: Curve) -> dict[str, object]:
    a, b = smooth(a), smooth(b)
    return {"what": what, "rms": rms(a, b), "worst": float(np.abs(a - b).max()), "end": relative_end(a, b)}


def against(what: str, found: Curve, reference: Curve, seeds: list[Curve]) -> dict[str, object]:
    """Difference of smoothed curves. ``within``: smaller than between the seeds. ``end``: relative, last tenth."""
    row = yardstick(what, found, reference)
    return row | {"within": bool(row["rms"] <= rms(*map(smooth, seeds)))}  # type: ignore[operator]


def smooth(curve: Curve) -> Curve:
    return np.convolve(curve, np.full(WINDOW, 1 / WINDOW), mode="valid")


def rms(a: Curve, b: Curve) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def relative_end(a: Curve, b: Curve) -> float:
    last = max(1, len(a) // 10)
    return float(a[-last:].mean() / b[-last:].mean() - 1)


def launcher(ranks: int) -> list[str]:
    if ranks == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


def run(command: list[str], log: Path, extra: dict[str, str]) -> None:
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, **extra}, check=False).returncode
    if code:
        sys.exit(f"exit code {code} of {' '.join(command)}\n{log.read_text()[-3000:]}")


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


def keep(path: Path, name: str, rows: Rows, seconds: int, arguments: argparse.Namespace) -> None:
    cuda = choose_device(arguments.device).type == "cuda"
    results = json.loads(path.read_text()) if path.exists() else {}
    hardware = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if cuda else "CPU"
    about = {"hardware": hardware, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "seconds": seconds}
    results[name] = about | {"tiny": arguments.tiny, "rows": rows}
    path.write_text(json.dumps(results, indent=1) + "\n")


def table(rows: Rows) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([shown(row.get(key, "")) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
