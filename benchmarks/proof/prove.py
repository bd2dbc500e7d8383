"""What every proof shares: annotate a pool once, train an arm and a seed at a time until the time is up, write it down.

A row is a pool; its results are results/PROOF-ROW-ARM-SEED.json. What has a file is not done again, on any machine.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ambient.curate.annotate import AnnotateConfig, annotate
from ambient.curate.decide import Rule
from ambient.curate.manifest import write_manifest
from ambient.curate.reporter import Reporter
from ambient.curate.rethreshold import rethreshold
from ambient.schemas.manifest import ANNOTATION, RECORD, manifest_schema, read_metadata
from ambient.train.config import TrainConfig
from ambient.train.evaluate.arms import ALL, AMBIENT, CLEAN, Arm, fixed, write_arm
from ambient.train.evaluate.compare import record
from ambient.train.evaluate.evaluate import write_json
from ambient.train.evaluate.judge import Judge
from ambient.train.loop import train
from ambient.train.run import spoken
from ambient.train.samples import save_grid

RESULTS = Path(__file__).parent / "results"
_JUDGING_S = 60.0  # kept back for measuring a run
_SHARED = "any"  # the row of what is the same in all: clean pictures only


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A pool. pool, clean: zip files. channels, resolution: of the Space. roots: of its manifests."""

    proof: str
    name: str
    pool: Path
    clean: Path
    channels: int
    resolution: int

    @property
    def roots(self) -> dict[str, str]:
        return {"pool": str(self.pool.resolve()), "clean": str(self.clean.resolve())}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An arm and a seed of a row.

    label: of the arm in tables. per: ``picture`` or ``source``. changes: of the training's settings. patch: puts a
    change into the trainer that it has no setting for, and returns what undoes it.
    """

    label: str
    arm: Arm
    seed: int
    per: str = "picture"
    changes: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[], Callable[[], None]] = field(default=lambda: lambda: None)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="pools, manifests, runs; manifests are worth keeping")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=560.0, help="of this call")
    parser.add_argument("--arms", default="clean,ambient,fixed,all", help="with commas; none: annotate only")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--images", type=int, default=1_600_000, help="training pictures of each run")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--pool-size", type=int, help="fewer pictures, to try it out")
    parser.add_argument("--draws", type=int, default=4, help="noise draws of the annotation")
    parser.add_argument("--steps", type=int, default=2_000, help="of the annotation's classifier")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--device", default="auto")


def manifests(row: Row, work: Path, options: argparse.Namespace, reporter: Reporter) -> dict[str, Path]:
    """The row's manifests without their curves, by ``per``: annotated now, unless they are in ``work``."""
    slim = {per: work / "manifests" / f"{row.proof}-{row.name}-{per}.parquet" for per in ("picture", "source")}
    if all(path.exists() for path in slim.values()):
        return slim
    full, begin = work / "annotated" / row.proof / row.name / "manifest.parquet", time.monotonic()
    full.parent.mkdir(parents=True, exist_ok=True)
    config = AnnotateConfig(
        clean=row.clean,
        resolution=row.resolution,
        channels=row.channels,
        draws=options.draws,
        steps=options.steps,
    )
    annotate(row.pool, full, config, device=options.device, workers=16, reporter=reporter)
    seconds = time.monotonic() - begin
    by_source = full.with_name("source.parquet")
    rethreshold(full, by_source, Rule(per="source"), overwrite=True, reporter=reporter)
    for per, path in (("picture", full), ("source", by_source)):
        _write_slim(path, slim[per])
    sigmas = _sigma_min(slim["picture"])
    quantiles = dict(zip(("p10", "median", "p90"), np.quantile(sigmas, (0.1, 0.5, 0.9)).tolist(), strict=True))
    about = {"proof": row.proof, "row": row.name, "pictures": len(sigmas), "seconds": round(seconds, 1), **quantiles}
    about |= {"mean": float(sigmas[np.isfinite(sigmas)].mean()), "never": int(np.isinf(sigmas).sum())}
    about |= {"draws": options.draws, "steps": options.steps, **_where_and_when(options.device)}
    write_json(options.results / f"{row.proof}-{row.name}-annotation.json", about)
    return slim


def prove(row: Row, jobs: Sequence[Job], judge: Judge, config: TrainConfig, options: argparse.Namespace) -> None:
    """Train and measure jobs in turn until the time is up; what is cut short continues in the next call."""
    reporter, end = Reporter(), options.begin + options.seconds
    slim = manifests(row, options.work, options, reporter)
    for job in jobs:
        name = _SHARED if job.arm == CLEAN else row.name
        stem = f"{row.proof}-{name}-{job.label}-{job.seed}"
        path = options.results / f"{stem}.json"
        if path.exists():
            reporter.say(f"{stem} is recorded")
            continue
        if time.monotonic() > end - _JUDGING_S:
            break
        run, arm_path = options.work / "runs" / stem, options.work / "arms" / f"{stem}.parquet"
        table = pq.read_table(slim[job.per])
        write_arm(slim[job.per], table, np.zeros(len(table), dtype=bool), job.arm, arm_path)
        unpatch, begin = job.patch(), time.monotonic()
        try:
            report = spoken(reporter)
            train(
                arm_path,
                run,
                replace(config, seed=job.seed, **job.changes),
                device=options.device,
                roots=row.roots,
                workers=16,
                stop=lambda: time.monotonic() > end - _JUDGING_S,
                report=report,
            )
        finally:
            unpatch()
        seconds = time.monotonic() - begin
        if time.monotonic() > end - _JUDGING_S:
            reporter.say(f"{stem}: the time is up; the same command continues")
            break
        found = record(run, arm_path, job.arm, job.seed, judge, workers=16, reporter=reporter)
        pixels = found.pop("first")
        save_grid(options.results / f"{stem}.png", pixels[:16], columns=16)
        about = {"proof": row.proof, "row": name, "label": job.label, "train_s": round(seconds, 1)}
        write_json(path, {**about, **found, **_where_and_when(options.device)})
        reporter.say(f"{stem}: Frechet distance {found['measures']['frechet']['value']:.3f}")


def standard_jobs(row: Row, work: Path, options: argparse.Namespace) -> list[Job]:
    """The arms and seeds asked for, seed by seed. ``fixed`` is the median sigma_min of the row, for all."""
    median = float(np.quantile(_sigma_min(manifests(row, work, options, Reporter())["picture"]), 0.5))
    arms = {"clean": CLEAN, "all": ALL, "ambient": AMBIENT, "fixed": fixed(round(median, 3))}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    return [Job(label=name, arm=arms[name], seed=seed) for seed in seeds for name in options.arms.split(",") if name]


def training(options: argparse.Namespace, **changes: Any) -> TrainConfig:
    """The proofs' training: a U-Net of 12 million weights, five averages kept on the way."""
    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    settings = [
        f"compile={'on' if on_gpu else 'off'}",
        f"num_images={options.images}",
        "batch_size=512",
        "lr=1e-3",
        "warmup_images=50000",
        "network.channels=96",
        "network.multipliers=1,2,2",
        "network.blocks=2",
        "network.attention_resolutions=16",
        "network.dropout=0.1",
        f"snapshot_images={-(-options.images // 5)}",
        f"sample_images={options.images}",
        "log_images=51200",
        "pictures=cache",
        "keep=1",
        *(f"{name}={value}" for name, value in changes.items()),
        *options.settings,
    ]
    return TrainConfig.from_settings(settings)


def _sigma_min(manifest: Path) -> np.ndarray:
    """Of the pictures that are not clean."""
    table = pq.read_table(manifest, columns=["sigma_min", "role", "status"])
    other = np.array(table["role"].cast(pa.string()).to_pylist()) == "pool"
    ok = np.array(table["status"].cast(pa.string()).to_pylist()) == "ok"
    return table["sigma_min"].to_numpy()[other & ok].astype(np.float64)


def _write_slim(manifest: Path, out: Path) -> None:
    """The manifest without curves and scores: a megabyte for 60,000 pictures."""
    table = pq.read_table(manifest, columns=[*RECORD.names, *ANNOTATION.names])
    for name in ("p_clean", "draws"):
        place, column = table.column_names.index(name), ANNOTATION.field(name)
        table = table.set_column(place, column, pa.nulls(len(table), column.type))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(out, table, manifest_schema([]), read_metadata(manifest))


def _where_and_when(device: str) -> dict[str, str]:
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if on_gpu else "CPU",
        "command": shlex.join(["python", *sys.argv]),
    }
