"""Does it help? Trains and measures every arm of a proof, in the order of importance, for as long as there is time.

    python benchmarks/proof/prove.py fashion --data /usr/share/datasets/fashion-mnist --work /tmp/proof --out packed
    python benchmarks/proof/prove.py photographs --data crops.npz --work /tmp/proof --out packed

Starts two programs for each GPU, one that trains and measures and one that damages and annotates pools ahead of it.
They take tasks from one list until --minutes have passed, on when this command has ended, too: it waits --wait seconds,
packs what is finished into --out, and the same command given again waits and packs again, or continues what was killed.
On another machine --keep FOLDER with those packed files goes on where they end; a training that was cut short begins
anew there. Results go into benchmarks/proof/results by hand: tar -xzf packed/results.tgz -C benchmarks/proof
"""

import argparse
import fcntl
import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

import tasks
import torch
from ambient.curate.reporter import Reporter
from tasks import Job

PROOFS = ("fashion", "photographs")
_PACKED = ("results", "manifests", "logs", "inductor")
_RESULTS = Path(__file__).parent / "results"
_POLL_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proof", choices=PROOFS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="pools, manifests, runs, results, logs")
    parser.add_argument("--out", type=Path, required=True, help="where what is worth keeping is packed")
    parser.add_argument("--keep", type=Path, help="folder of what was packed before")
    parser.add_argument("--minutes", type=float, default=27.0, help="from the first call on; then all stops")
    parser.add_argument("--wait", type=float, default=560.0, help="seconds of this call")
    parser.add_argument("--only", default="", help="regular expression on names of jobs, ROW-LABEL-SEED")
    parser.add_argument("--images", type=int, default=1_600_000, help="training pictures of each run")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--pool-size", type=int, help="fewer pictures, to try it out")
    parser.add_argument("--draws", type=int, default=4, help="noise draws of the annotation")
    parser.add_argument("--steps", type=int, default=2_000, help="of the annotation's classifier")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.command = command(options, parser)
    if options.role:
        follow(options)
    else:
        lead(options, time.monotonic())


def command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """What gives the same values, whatever the folders."""
    words = ["python", "benchmarks/proof/prove.py", options.proof, "--data", "DATA", "--work", "WORK", "--out", "OUT"]
    for name in ("images", "samples", "pool_size", "draws", "steps"):
        if (value := getattr(options, name)) != parser.get_default(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(word for setting in options.settings for word in ("--set", setting))])


def lead(options: argparse.Namespace, begin: float) -> None:
    """Start what is not running, wait, pack, and say how far it is."""
    for name in ("results", "claims", "logs", "failed"):
        (options.work / name).mkdir(parents=True, exist_ok=True)
    if options.keep:
        unpack(options.keep, options.work)
    started = start(options)
    while time.monotonic() < begin + options.wait and any(running(options.work, role) for role in started):
        time.sleep(_POLL_S)
    pack(options.work, options.out)
    results = sorted((options.work / "results").glob(f"{options.proof}-*.json"))
    print(f"{len(results)} records: {', '.join(path.stem.partition('-')[2] for path in results)}")
    for path in sorted((options.work / "failed").glob("*.txt")):
        print(f"FAILED {path.stem}: {path.read_text().strip().splitlines()[-1]}")
    for role in started:
        print(f"{role}: {(options.work / 'logs' / f'{role}.txt').read_text().strip().rpartition(chr(10))[2][:200]}")
    left = [role for role in started if running(options.work, role)]
    print(f"still at work: {', '.join(left)}: give the same command again" if left else "all has stopped")


def start(options: argparse.Namespace) -> list[str]:
    """Programs that outlive this one, two for each GPU. Returns their roles."""
    gpus = torch.cuda.device_count() if options.device != "cpu" else 0
    roles = [f"{kind}-{gpu}" for gpu in range(max(gpus, 1)) for kind in ("train", "prepare")]
    if any(running(options.work, role) for role in roles):
        return roles
    processes, end = {}, time.time() + options.minutes * 60
    for role in roles:
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(options.work.resolve() / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(options.work.resolve() / "inductor"),
        }
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = role.partition("-")[2]
        arguments = [sys.executable, *sys.argv, "--role", role, "--end", str(end)]
        with (options.work / "logs" / f"{role}.txt").open("a") as log:
            processes[role] = subprocess.Popen(
                arguments, stdout=log, stderr=log, env=environment, start_new_session=True
            )
    while any(not running(options.work, role) and process.poll() is None for role, process in processes.items()):
        time.sleep(_POLL_S / 10)
    return roles


def follow(options: argparse.Namespace) -> None:
    """One of the programs: tasks of its kind, one after the other."""
    lock = (options.work / "claims" / options.role).open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)  # which tells that it runs
    proof = import_module(options.proof).open_proof(options.data, options.pool_size)
    jobs = [job for job in proof.jobs if re.search(options.only, job.name)]
    reporter, begin = Reporter(), time.time()

    def say(message: str) -> None:
        reporter.say(f"[{time.time() - begin:.0f} s] {message}")

    def stop() -> bool:
        return time.time() > options.end

    if options.role.startswith("prepare"):
        for row in dict.fromkeys(job.row for job in jobs if not recorded(options, proof.name, job.name)):

            def prepare(row: str = row) -> None:
                tasks.prepare(proof, row, options, reporter)
                (options.work / "claims" / f"{row}.ready").touch()
                say(f"{row} is ready")

            if not stop():
                once(options, f"{row}.preparing", f"{row}.ready", prepare)
        return
    tasks.warm_up(proof, options, say)
    judge, longest = tasks.judge_of(proof, options), 0.0
    say("ready to train")
    while not stop():
        open_jobs = [job for job in jobs if not finished(options, proof.name, job)]
        if not open_jobs or time.time() + 0.8 * longest > options.end:
            break
        for job in open_jobs:
            since = time.time()

            def train(job: Job = job) -> None:
                tasks.work(proof, job, judge, options, stop, reporter)

            ready = (options.work / "claims" / f"{job.row}.ready").exists()
            if ready and once(options, f"{job.name}.training", f"../results/{proof.name}-{job.name}.json", train):
                longest = max(longest, time.time() - since)
                say(f"{job.name} took {time.time() - since:.0f} s")
                break
        else:
            time.sleep(_POLL_S)


def once(options: argparse.Namespace, claim: str, result: str, task: Callable[[], None]) -> bool:
    """Do a task unless its result is there or another program is at it. Returns whether it was done.

    What it raises is written down: one task that fails must not cost the others.
    """
    lock = claimed(options.work / "claims" / claim)
    if lock is None:
        return False
    with lock:
        if (options.work / "claims" / result).exists():
            return False
        try:
            task()
        except Exception:  # noqa: BLE001 (whatever it is, the other tasks go on)
            (options.work / "failed" / f"{claim}.txt").write_text(traceback.format_exc())
            traceback.print_exc()
        return True


def finished(options: argparse.Namespace, proof: str, job: Job) -> bool:
    failed = options.work / "failed"
    return recorded(options, proof, job.name) or any(
        (failed / f"{name}.txt").exists() for name in (f"{job.name}.training", f"{job.row}.preparing")
    )


def recorded(options: argparse.Namespace, proof: str, name: str) -> bool:
    return any((folder / f"{proof}-{name}.json").exists() for folder in (options.work / "results", _RESULTS))


def claimed(path: Path) -> IO[bytes] | None:
    """A lock that ends with this program, however that ends; None where another has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def running(work: Path, role: str) -> bool:
    lock = claimed(work / "claims" / role)
    if lock is not None:
        lock.close()
    return lock is None


def pack(work: Path, out: Path) -> None:
    """A compressed file of each folder that is worth keeping."""
    out.mkdir(parents=True, exist_ok=True)
    for name in _PACKED:
        if (work / name).exists():
            with tarfile.open(out / f"{name}.tgz", "w:gz") as archive:
                for path in sorted(path for path in (work / name).rglob("*") if path.is_file()):
                    with suppress(FileNotFoundError):  # written under a temporary name and renamed in this moment
                        archive.add(path, path.relative_to(work))
            print(f"{out / name}.tgz: {(out / f'{name}.tgz').stat().st_size / 2**20:.1f} MiB")


def unpack(keep: Path, work: Path) -> None:
    """What ``pack`` packed, but for logs; what is there stays."""
    if not (keep / "results.tgz").exists():
        sys.exit(f"there is no results.tgz in {keep}")
    for name in _PACKED:
        if name != "logs" and (keep / f"{name}.tgz").exists() and not (work / name / "unpacked").exists():
            with tarfile.open(keep / f"{name}.tgz") as archive:
                archive.extractall(work, filter="data")
            (work / name / "unpacked").touch()


if __name__ == "__main__":
    main()
