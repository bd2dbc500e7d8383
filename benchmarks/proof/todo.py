"""What is left to do of a proof, told by files in --work: programs share one list and go on where others ended.

claims/NAME.ready: a row's pool is annotated and decoded. claims/NAME.preparing, NAME.training: locked by the program
that is at it. failed/NAME.preparing.txt, NAME.training.txt: what that raised. Each NAME begins with the proof's.
"""

import argparse
import fcntl
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import tasks
import torch
from ambient.curate.pool import content_id
from ambient.train.config import MAY_CHANGE
from ambient.train.evaluate.extractors import open_extractor
from recorded import config_of
from tasks import Job, Proof

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Todo:
    """The jobs of a proof that are asked for, with the options of ``prove.py``."""

    proof: Proof
    jobs: list[Job]
    options: argparse.Namespace

    def jobs_left(self) -> list[Job]:
        """What has no record and no failure, in the order in which it is done."""
        return [job for job in self._unrecorded() if not self._lost(job)]

    def rows_left(self) -> list[str]:
        """The rows of what has no record."""
        return list(dict.fromkeys(job.row for job in self._unrecorded()))

    def recorded(self, job: Job) -> bool:
        """Whether a record, here or in the checkout, is of this very training, measured against the same features."""
        wanted = _wanted(self.proof, job, self.options) | self._measured_against
        pattern = f"{self.proof.name}-{job.name}*.json"
        paths = [path for folder in (self.options.work / "results", _RESULTS) for path in folder.glob(pattern)]
        records = [json.loads(path.read_text()) for path in paths]
        return any(_agrees({**record, "config": config_of(record)}, wanted) for record in records)

    def ready(self, row: str) -> bool:
        return (self.options.work / "claims" / f"{self.row_stem(row)}.ready").exists()

    def set_ready(self, row: str) -> None:
        (self.options.work / "claims" / f"{self.row_stem(row)}.ready").touch()

    def with_ready_row(self, job: Job) -> Job | None:
        """The job on a row that is ready, or None: clean pictures are the same in all, so any row serves them."""
        rows = [job.row, *self.proof.rows] if job.label == "clean" else [job.row]
        return next((replace(job, row=row) for row in rows if self.ready(row)), None)

    def longest_s(self) -> float:
        """Seconds of the longest training and measuring in this folder, also by programs that have ended."""
        return max(map(float, self._seconds.read_text().split()), default=0.0) if self._seconds.exists() else 0.0

    def note_seconds(self, seconds: float) -> None:
        with self._seconds.open("a") as file:  # a line in one piece, whoever else adds one
            file.write(f"{seconds}\n")

    @cached_property
    def _measured_against(self) -> dict[str, Any]:
        """As records tell which pictures and features are meant: others may be as many."""
        fingerprint = content_id(self.proof.pictures.tobytes())
        return {
            "reference": {"pictures": len(self.proof.pictures), "fingerprint": fingerprint},
            "features": {"digest": open_extractor(self.proof.extractor, torch.device("cpu")).digest},
        }

    @property
    def _seconds(self) -> Path:
        path: Path = self.options.work / "claims"
        return path / f"{self.proof.name}-{self.options.images}x{self.options.samples}.seconds"

    def row_stem(self, row: str) -> str:
        return tasks.row_stem(self.proof, row, self.options)

    def job_stem(self, job: Job) -> str:
        return tasks.job_stem(self.proof, job, self.options)

    def _unrecorded(self) -> list[Job]:
        return [job for job in self.jobs if not self.recorded(job)]

    def _lost(self, job: Job) -> bool:
        """Whether it failed, or every row that could serve it did."""
        if self._failed(f"{self.job_stem(job)}.training"):
            return True
        rows = {other.row for other in self.jobs} if job.label == "clean" else {job.row}
        return self.with_ready_row(job) is None and all(self._failed(f"{self.row_stem(row)}.preparing") for row in rows)

    def _failed(self, claim: str) -> bool:
        return (self.options.work / "failed" / f"{claim}.txt").exists()


def once(work: Path, claim: str, done: Callable[[], bool], task: Callable[[], object]) -> bool:
    """Do a task unless it is done or another program is at it. Returns whether it was tried.

    What it raises is written down: one task that fails must not cost the others.
    """
    lock, failure = claimed(work / "claims" / claim), work / "failed" / f"{claim}.txt"
    if lock is None:
        return False
    with lock:
        if done():
            return False
        try:
            task()
        except Exception:  # noqa: BLE001 (whatever it is, the other tasks go on)
            failure.write_text(traceback.format_exc())
            traceback.print_exc()
        else:
            failure.unlink(missing_ok=True)
        return True


def claimed(path: Path) -> IO[bytes] | None:
    """A lock that ends with this program, however that ends; None where another has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def end_of(path: Path, seconds: float) -> float:
    """When work ends, by ``time.time``, as is written in a file; once that has passed, so many seconds from now."""
    if path.exists() and (end := float(path.read_text())) > time.time():
        return end
    end = time.time() + seconds
    path.write_text(str(end))
    return end


def _wanted(proof: Proof, job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """What the record of a job must hold, whatever it was measured against."""
    config = tasks.training_of(proof.settings, job, options).to_json()
    wanted = {
        "row": tasks.row_of(job),
        "label": job.label,
        "seed": job.seed,
        "samples": options.samples,
        "config": {key: value for key, value in json.loads(json.dumps(config)).items() if key not in MAY_CHANGE},
    }
    return wanted if job.is_shared else wanted | {"annotated": tasks.annotated(options)}


def _agrees(record: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether what both hold is the same: a setting that was added since had its default."""
    return all(
        _agrees(record[key], value) if isinstance(value, dict) else record[key] == value
        for key, value in wanted.items()
        if key in record
    )
