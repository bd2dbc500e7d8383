"""Does it help? Trains and measures every arm of a proof, in the order of importance, for as long as there is time.

    python benchmarks/proof/prove.py fashion --data /usr/share/datasets/fashion-mnist --work /tmp/proof --out packed
    python benchmarks/proof/prove.py photographs --data crops.npz --work /tmp/proof --out packed
    OMP_NUM_THREADS=1 python benchmarks/proof/prove.py fashion16 --data DATA --work WORK --out OUT --device cpu \
        --images 300000 --samples 4000 --minutes 120

Starts programs for each GPU: --trainers of them train and measure (on an H200 five make 28,000 pictures/s together,
with NVIDIA's multi-process service on: nvidia-cuda-mps-control -d), --preparers damage and annotate pools ahead of
these. They take tasks from one list until --minutes have passed, on when this command has ended, too: it waits --wait
seconds and packs what is finished into --out. The same command given again starts what does not run, tries again what
failed, waits and packs; after the end of these minutes it begins as many more. On another machine --keep FOLDER with
those packed files goes on where they end; a training that was cut short begins anew there. What has a record of the
same pictures, length and settings is not done again. With --record the records that are there at the end of a call go
into benchmarks/proof/results, and docs/results.md is written anew; those of another machine go there by
tar -xzf packed/results.tgz -C benchmarks/proof
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import compiling
import docs_results
import tasks
import torch
from ambient.curate.reporter import Reporter
from ambient.train.evaluate.judge import Judge
from commands import commit
from packing import pack, unpack
from tasks import PROOFS, Job
from todo import Todo, claimed, end_of, once

_POLL_S = 1.0
_FAILURES = {"train": "training", "prepare": "preparing"}


def main() -> None:
    options = build_parser().parse_args()
    options.commit = options.commit or commit()
    if options.role:
        follow(options)
    else:
        lead(options, time.monotonic())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proof", choices=PROOFS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="pools, manifests, runs, results, logs")
    parser.add_argument("--out", type=Path, required=True, help="where what is worth keeping is packed")
    parser.add_argument("--keep", type=Path, help="folder of what was packed before")
    parser.add_argument("--minutes", type=float, default=27.0, help="from the first call on; then all stops")
    parser.add_argument("--wait", type=float, default=520.0, help="seconds of this call, without imports and packing")
    parser.add_argument("--only", default="", help="regular expression on names of jobs, ROW-LABEL-SEED")
    parser.add_argument("--images", type=int, default=1_600_000, help="training pictures of each run")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--pool-size", type=int, help="so many pictures instead")
    parser.add_argument("--draws", type=int, default=tasks.DRAWS, help="noise draws of the annotation")
    parser.add_argument("--steps", type=int, default=tasks.STEPS, help="of the annotation's classifier")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--trainers", type=int, default=1, help="programs that train on one GPU at the same time")
    parser.add_argument("--preparers", type=int, default=1, help="programs that annotate on one GPU at the same time")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--record", action="store_true", help="into benchmarks/proof/results and docs/results.md")
    parser.add_argument("--commit", help="of this code, where git does not tell")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    return parser


def lead(options: argparse.Namespace, begin: float) -> None:
    """Start what is not running, wait, pack, and say how far it is."""
    for name in ("results", "claims", "logs", "failed"):
        (options.work / name).mkdir(parents=True, exist_ok=True)
    if options.keep:
        unpack(options.keep, options.work)
    gpus = torch.cuda.device_count() if options.device != "cpu" else 0
    kinds = ["train"] * options.trainers + ["prepare"] * options.preparers
    roles = [f"{kind}-{gpu}-{i}" for gpu in range(max(gpus, 1)) for i, kind in enumerate(kinds)]
    start(options, roles, on_gpu=gpus > 0)
    while time.monotonic() < begin + options.wait and any(running(options, role) for role in roles):
        time.sleep(_POLL_S)
    tell(options, roles)
    pack(options.work, options.out)
    if options.record:
        write_down(options.work, options.proof, docs_results.RESULTS, docs_results.OUT)


def write_down(work: Path, proof: str, results: Path, page: Path) -> None:
    """Copy the records of a proof to those in the checkout, and make the page of all of them."""
    for path in sorted((work / "results").glob(f"{proof}-*")):
        if path.suffix in (".json", ".png"):
            shutil.copyfile(path, results / path.name)
    docs_results.write(results, page)


def start(options: argparse.Namespace, roles: list[str], *, on_gpu: bool) -> None:
    """Start each program that does not run; it outlives this one. What failed in one of its kind is tried again."""
    missing = [role for role in roles if not running(options, role)]
    if not missing:
        return
    end = end_of(options.work / "claims" / f"{options.proof}.end", options.minutes * 60)
    for kind in {role.partition("-")[0] for role in missing}:
        for path in (options.work / "failed").glob(f"{options.proof}-*.{_FAILURES[kind]}.txt"):
            path.unlink()
    processes = {role: launch(options, role, end, on_gpu=on_gpu) for role in missing}
    while any(not running(options, role) and process.poll() is None for role, process in processes.items()):
        time.sleep(_POLL_S / 10)


def launch(options: argparse.Namespace, role: str, end: float, *, on_gpu: bool) -> subprocess.Popen[bytes]:
    """This command again, in one of its roles."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(options.work.resolve() / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(options.work.resolve() / "inductor"),
    }
    if on_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = role.split("-")[1]
    arguments = [sys.executable, *sys.argv, "--role", role, "--end", str(end)]
    with log_of(options, role).open("a") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=log, env=environment, start_new_session=True)


def tell(options: argparse.Namespace, roles: list[str]) -> None:
    """How far it is."""
    results = sorted((options.work / "results").glob(f"{options.proof}-*.json"))
    print(f"{len(results)} records: {', '.join(path.stem.partition('-')[2] for path in results)}")
    for path in sorted((options.work / "failed").glob(f"{options.proof}-*.txt")):
        print(f"FAILED {path.stem}: {path.read_text().strip().splitlines()[-1]}")
    for role in roles:
        print(f"{role}: {log_of(options, role).read_text().strip().rpartition(chr(10))[2][:200]}")
    left = [role for role in roles if running(options, role)]
    print(f"still at work: {', '.join(left)}: give the same command again" if left else "all has stopped")


def follow(options: argparse.Namespace) -> None:
    """One of the programs: tasks of its kind, one after the other."""
    lock = lock_of(options, options.role).open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)  # which tells that it runs
    proof = import_module(options.proof).open_proof(options.data, options.pool_size)
    jobs = [job for job in proof.jobs if re.search(options.only, job.name)]
    todo, reporter, begin = Todo(proof=proof, jobs=jobs, options=options), Reporter(), time.time()

    def say(message: str) -> None:
        reporter.say(f"[{time.time() - begin:.0f} s] {message}")

    (prepare_rows if options.role.startswith("prepare") else train_jobs)(todo, reporter, say)


def prepare_rows(todo: Todo, reporter: Reporter, say: Callable[[str], None]) -> None:
    """Make each row ready whose jobs are left."""
    for row in todo.rows_left():

        def prepare(row: str = row) -> None:
            tasks.prepare(todo.proof, row, todo.options, reporter)
            todo.set_ready(row)
            say(f"{row} is ready")

        if time.time() < todo.options.end:
            once(todo.options.work, f"{todo.row_stem(row)}.preparing", lambda row=row: todo.ready(row), prepare)


def train_jobs(todo: Todo, reporter: Reporter, say: Callable[[str], None]) -> None:
    """Train and measure what is left, as long as there is time for one more that takes as long as the longest did."""
    options = todo.options
    compiling.warm_up(todo.proof, options, say)
    judge = tasks.judge_of(todo.proof, options)
    say("ready to train")
    while left := todo.jobs_left():
        if time.time() + todo.longest_s() > options.end:
            say(f"jobs left: {len(left)}; no time for one more, which takes {todo.longest_s():.0f} s")
            break
        if not any(train_job(todo, job, judge, reporter, say) for job in left):
            time.sleep(_POLL_S)


def train_job(todo: Todo, job: Job, judge: Judge, reporter: Reporter, say: Callable[[str], None]) -> bool:
    """One job, unless its row is not ready or another program is at it. Returns whether it was tried."""
    options, ready, begin = todo.options, todo.with_ready_row(job), time.time()
    if ready is None:
        return False

    def train() -> None:
        tasks.work(todo.proof, ready, judge, options, lambda: time.time() > options.end, reporter)

    if not once(options.work, f"{todo.job_stem(job)}.training", lambda: todo.recorded(job), train):
        return False
    todo.note_seconds(time.time() - begin)
    say(f"{job.name} took {time.time() - begin:.0f} s")
    return True


def running(options: argparse.Namespace, role: str) -> bool:
    lock = claimed(lock_of(options, role))
    if lock is not None:
        lock.close()
    return lock is None


def lock_of(options: argparse.Namespace, role: str) -> Path:
    path: Path = options.work / "claims" / f"{options.proof}-{role}"
    return path


def log_of(options: argparse.Namespace, role: str) -> Path:
    path: Path = options.work / "logs" / f"{options.proof}-{role}.txt"
    return path


if __name__ == "__main__":
    main()
