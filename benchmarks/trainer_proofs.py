"""Does the trainer keep its promises on this machine? Each proof prints a table and writes a JSON file as it goes.

    python benchmarks/trainer_proofs.py precision resume --out proofs.json                     # one GPU
    python benchmarks/trainer_proofs.py world resize killed --out proofs.json                  # two GPUs of one host
    python benchmarks/trainer_proofs.py precision resume world resize killed --tiny --device cpu --out tiny.json

``precision``: bf16 compiled against fp32 eager. ``world``: DDP and FSDP on two GPUs against one. ``resume``: SIGKILL
and the same command again. ``resize``: begun on two GPUs, killed, continued on one. ``killed``: one of two processes
gets SIGKILL.

A proof says how long it should take, and ends after ``--budget`` seconds: the program that runs then is killed, what
is finished is in the JSON file, with every run's losses, and the next proof has its own time; so also when one fails.
The same command continues a proof that did not come to its end: runs of which the file has the losses are not repeated.

They train 300 steps of a small DDPM++ on Gaussian fields, two thirds of them with thresholds, through
``ambient train``. Runs that need no other run go side by side, each on its own GPU if there are several. The yardstick
of curves is the root mean square difference between runs that differ in the seed alone (``precision``, ``world``,
``resize``), or in nothing (``resume``). Curves are smoothed over 20 steps, except in ``resume``.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ambient.curate.device import choose_device
from ambient.schemas.space import Space
from trainer_bench import FULL, TINY, WINDOW, Bench, Curve, StoppedError, say

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from small_pool import write_pool

Row = dict[str, object]
Rows = Iterator[Row]

EXPECTED = {"precision": 170, "world": 110, "resume": 130, "resize": 150, "killed": 60}
"""Seconds that a proof should take on H200s when nothing else runs there."""

COMPARED = 50  # steps after a resumption


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proofs", nargs="+", choices=PROOFS)
    parser.add_argument("--out", type=Path, required=True, help="JSON; proofs that it holds already are replaced")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a check of the script itself")
    parser.add_argument("--budget", type=float, help="seconds for each proof; twice the expected ones when left out")
    parser.add_argument("--work", type=Path, help="keeps runs here, and uses those that are finished")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)) / ("tiny" if arguments.tiny else "full")
        size = TINY if arguments.tiny else FULL
        bench = Bench(work=work, size=size, device=arguments.device)
        if not bench.manifest.exists():
            work.mkdir(parents=True, exist_ok=True)
            write_pool(work, num=size.pictures, space=Space(resolution=size.side, channels=3))
        finished = [prove(name, bench, arguments) for name in arguments.proofs]
    sys.exit(not all(finished))


def prove(name: str, bench: Bench, arguments: argparse.Namespace) -> bool:
    """Whether one proof came to its end; what it has found is written down whenever there is more of it."""
    cuda = choose_device(arguments.device).type == "cuda"
    hardware = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if cuda else "CPU"
    rows: list[Row] = []
    expected = EXPECTED[name]
    budget = arguments.budget or 2 * expected
    begin = time.monotonic()
    same = {"hardware": hardware, "torch": torch.__version__, "tiny": arguments.tiny}
    earlier = read(arguments.out).get(name, {"finished": True})
    goes_on = not earlier.get("finished") and all(earlier[key] == value for key, value in same.items())
    bench.deadline, bench.runs = begin + budget, dict(earlier["runs"]) if goes_on else {}
    before = earlier["seconds"] if goes_on else 0

    def write(**end: object) -> None:
        seconds, date = before + round(time.monotonic() - begin), time.strftime("%Y-%m-%d")
        about = {**same, "date": date, "seconds": seconds}
        keep(arguments.out, name, {**about, **end, "rows": rows, "runs": bench.runs})

    say(f"{name}: about {expected} s on H200s, ended after {budget:.0f} s")
    finished = False
    try:
        for row in PROOFS[name](bench):
            rows.append(row)
            write(finished=False)
        finished = True
        write(finished=True)
    except StoppedError as error:
        write(finished=False, stopped=str(error))
        say(f"{name}: stopped: {error}")
    print(f"\n{name} ({before + time.monotonic() - begin:.0f} s)\n\n{table(rows)}", flush=True)
    return finished


def precision(bench: Bench) -> Rows:
    fp32 = bench.side_by_side(*((f"fp32-{seed}", {"seed": seed, "fp32": True}) for seed in (0, 1)))
    yield yardstick("fp32, seed 0 to 1", *fp32)
    for seed in (0, 1):  # one after the other: the second finds the first one's kernels compiled
        bf16 = bench.trained(f"bf16-{seed}", "precision=bf16", "compile=on", seed=seed)
        yield against(f"bf16 compiled to fp32 eager, seed {seed}", bf16, fp32[seed], fp32)


def one_process(bench: Bench) -> list[Curve]:
    return bench.side_by_side(*((f"one-{seed}", {"seed": seed}) for seed in (0, 1)), settings=("compile=off",))


def world(bench: Bench) -> Rows:
    one = one_process(bench)
    yield yardstick("one process, seed 0 to 1", *one)
    for sharding in ("ddp", "fsdp"):
        two = bench.trained(sharding, "compile=off", f"sharding={sharding}", ranks=2)
        yield against(f"two processes, {sharding}, to one", two, one[0], one)


def resume(bench: Bench) -> Rows:
    """Equal runs differ in what rounding grows to; not smoothed, over the steps after the checkpoint."""
    same = bench.side_by_side(*((f"undisturbed-{k}", {}) for k in range(3)))
    half = bench.size.steps // 2
    part = slice(half, half + COMPARED)
    between = [rms(a[part], b[part]) for a, b in combinations(same, 2)]
    yield {"what": "between three undisturbed runs", "rms": max(between), "least": min(between)}
    others = rms(same[0][part], same[0][half + 1 : half + COMPARED + 1])
    yield {"what": "a run to itself one step later (other pictures)", "rms": others}
    bench.killed("resumed")
    resumed = bench.trained("resumed")
    to_these = [rms(resumed[part], curve[part]) for curve in same]
    yield {
        "what": "resumed after SIGKILL, to each of them",
        "rms": float(np.mean(to_these)),
        "least": min(to_these),
        # Four equal runs: a mean above every distance between the other three is not rare, one of twice that is.
        "within": float(np.mean(to_these)) <= 2 * max(between),
        "all steps there": len(resumed) == len(same[0]),
    }


def resize(bench: Bench) -> Rows:
    one = one_process(bench)
    yield yardstick("one process, seed 0 to 1", *one)
    for sharding in ("ddp", "fsdp"):
        name, settings = f"{sharding}-then-one", ("compile=off", f"sharding={sharding}")
        bench.killed(name, *settings, ranks=2, victims=2)
        yield against(f"two processes, {sharding}, killed; then one", bench.trained(name, *settings), one[0], one)


def killed(bench: Bench) -> Rows:
    """One of two processes dies; the other says so, torchrun ends, and one process finishes the run."""
    seconds, messages = bench.killed("lost", "compile=off", "sharding=ddp", ranks=2)
    told = [line for line in messages.splitlines() if line.startswith("ambient: ")]
    yield {"what": "seconds from SIGKILL to the end of all", "seconds": round(seconds, 1), "within": seconds < 60}
    yield {"what": f"told: {' / '.join(told) or 'nothing'}"}
    yield {"what": "checkpoints left", "checkpoints": bench.checkpoints("lost")}
    steps = len(bench.trained("lost", "compile=off", "sharding=ddp"))
    yield {"what": "steps after the same command again", "steps": steps, "within": steps == bench.size.steps}


PROOFS = {
    "precision": precision,
    "world": world,
    "resume": resume,
    "resize": resize,
    "killed": killed,
}


def yardstick(what: str, a: Curve, b: Curve) -> Row:
    a, b = smooth(a), smooth(b)
    return {"what": what, "rms": rms(a, b), "worst": float(np.abs(a - b).max()), "end": relative_end(a, b)}


def against(what: str, found: Curve, reference: Curve, seeds: list[Curve]) -> Row:
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


def keep(path: Path, name: str, found: dict[str, object]) -> None:
    results = {**read(path), name: found}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results) + "\n")
    partial.replace(path)


def read(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}  # type: ignore[no-any-return]


def table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([shown(row.get(key, "")) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
