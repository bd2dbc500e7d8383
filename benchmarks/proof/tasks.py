"""What a proof is made of: rows, which are damaged pools, and jobs, which are trainings on them; and how each is done.

``prepare`` writes and annotates a row's pool, ``work`` trains and measures a job. What has a file in ``results`` is not
done again, on any machine: PROOF-ROW-annotation.json, PROOF-ROW-LABEL-SEED-IMAGESxSAMPLES.json. What is asked for
otherwise than the proof has it, by --pool-size, --draws, --steps and --set, is in these names, too.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from ablations import ABLATIONS
from ambient.curate.annotate import AnnotateConfig, annotate
from ambient.curate.crossfit import FOLDS
from ambient.curate.decide import Rule
from ambient.curate.device import choose_device
from ambient.curate.pool import content_id
from ambient.curate.reporter import Reporter
from ambient.curate.rethreshold import rethreshold
from ambient.schemas.space import Space
from ambient.schemas.usable import BUFFER
from ambient.train.config import MAY_CHANGE, TrainConfig
from ambient.train.evaluate.arms import ALL, AMBIENT, CLEAN, Arm, fixed, write_arm
from ambient.train.evaluate.compare import record
from ambient.train.evaluate.distances import moments
from ambient.train.evaluate.evaluate import write_json
from ambient.train.evaluate.extractors import features_of, open_extractor
from ambient.train.evaluate.judge import Judge, Shown, denoising
from ambient.train.evaluate.reference import MOST_IN_PAIRS, Reference
from ambient.train.evaluate.sources import resized, space_of_copies
from ambient.train.loop import train
from ambient.train.pictures import open_pictures
from ambient.train.rows import read_rows
from ambient.train.run import spoken
from ambient.train.samples import save_grid
from ambient.train.trained import load_trained
from commands import changes, command
from pools import U8, damaged, kind_at, write_pool
from slim import thresholds, write_slim

SHARED = "any"
"""The row of what is the same in all: clean pictures only, and all pictures as they were before any damage."""
UNDAMAGED = "undamaged"
"""The label of the latter, and the row that holds them: how much there is to gain, for nobody has these."""

DRAWS, STEPS = 4, 2_000
"""Of an annotation: noise draws, and steps of its classifier."""

PROOFS = ("fashion", "photographs", "fashion16")
"""Modules with ``open_proof``, SETTINGS and NUM_PICTURES, in the order in which the page of results shows them."""
SIMPLE = ("clean", UNDAMAGED, "all", "fixed")
"""Labels of arms that are not among the ABLATIONS."""

_VALIDATED = 1_000  # pictures on which denoising is measured
_READERS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A training. label: of the arm in tables: one of SIMPLE or of ABLATIONS."""

    row: str
    label: str
    seed: int

    @property
    def name(self) -> str:
        return f"{row_of(self)}-{self.label}-{self.seed}"

    @property
    def is_shared(self) -> bool:
        """Whether no damage and no annotation has a part in it."""
        return self.label in ("clean", UNDAMAGED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """pictures: (N, H, W) or (N, H, W, 3) uint8, undamaged; clean: (N,) bool, which are left so; held_out: others, as
    pictures. rows: name -> how the others are damaged, in equal shares; jobs: in the order in which they are done.
    extractor: of features, a name of ``ambient eval --features`` or a file. settings: of the training.
    usual_size: pictures unless --pool-size says otherwise; None where the data tell. folds: of the annotation of some
    rows, instead of 2.
    """

    name: str
    pictures: U8
    clean: U8
    held_out: U8
    rows: dict[str, list[str]]
    jobs: list[Job]
    extractor: str
    settings: Sequence[str]
    usual_size: int | None = None
    folds: dict[str, int] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return 1 if self.pictures.ndim == 3 else 3

    def size(self, options: argparse.Namespace) -> int | None:
        """Pictures that are asked for; None for all there are."""
        return self.usual_size if options.pool_size is None else int(options.pool_size)


def prepare(proof: Proof, row: str, options: argparse.Namespace, reporter: Reporter) -> None:
    """Write the row's pool, annotate it unless its manifest is there, and decode its pictures for the trainer."""
    clean, pool = write_pool(pool_of(proof, row, options), proof.pictures, proof.rows[row], clean=proof.clean)
    labels = ["", *(job.label for job in proof.jobs if job.row == row and rule_of(job.label))]
    slim = {label: manifest_of(proof, row, options, label) for label in labels}
    if not all(path.exists() for path in slim.values()):
        stem = row_stem(proof, row, options)
        begin, full = time.monotonic(), options.work / "annotated" / stem / "manifest.parquet"
        full.parent.mkdir(parents=True, exist_ok=True)
        known = {"sigma_min": 0.0} if row == UNDAMAGED else {**annotated(options), "folds": proof.folds.get(row, FOLDS)}
        config = AnnotateConfig(clean=clean, resolution=proof.pictures.shape[1], channels=proof.channels, **known)
        annotate(pool, full, config, device=options.device, workers=_READERS, reporter=reporter)
        seconds = round(time.monotonic() - begin, 1)
        if row != UNDAMAGED:
            by_source = full.with_name("source.parquet")
            rethreshold(full, by_source, Rule(per="source"), overwrite=True, reporter=reporter)
            about = {"proof": proof.name, "row": row, "seconds": seconds, **annotated(options)}
            about |= thresholds(full, by_source) | _where_and_when(proof, options)
            write_json(options.work / "results" / f"{stem}-annotation.json", about)
        for label, path in slim.items():
            decided = full.with_name(f"{label}.parquet") if label else full
            if rule := rule_of(label):
                rethreshold(full, decided, rule, overwrite=True, reporter=reporter)
            write_slim(decided, path)
    rows = read_rows(slim[""], roots=_roots(proof, row, options))
    open_pictures(rows, torch.device("cpu"), place="cache", workers=_READERS, say=reporter.say)


def pool_of(proof: Proof, row: str, options: argparse.Namespace) -> Path:
    folder: Path = options.work / "pools" / f"{proof.name}-{len(proof.pictures)}-{row}"
    return folder


def manifest_of(proof: Proof, row: str, options: argparse.Namespace, label: str = "") -> Path:
    """What the jobs of a row train on, those with a rule of their own on another."""
    suffix = f"-{label}" if rule_of(label) else ""
    path: Path = options.work / "manifests" / f"{row_stem(proof, row, options)}{suffix}.parquet"
    return path


def rule_of(label: str) -> Rule | None:
    """Of the thresholds of an arm; None where each picture has its own."""
    return ABLATIONS[label].rule if label in ABLATIONS else None


def row_stem(proof: Proof, row: str, options: argparse.Namespace) -> str:
    """What the files of a row's annotation are named: with what differs from the proof's own."""
    asked = {"pool": proof.size(options), "draws": options.draws, "steps": options.steps}
    usual = {"pool": proof.usual_size, "draws": DRAWS, "steps": STEPS}
    return f"{proof.name}-{row}" + "".join(f"-{key}-{asked[key]}" for key in asked if asked[key] != usual[key])


def job_stem(proof: Proof, job: Job, options: argparse.Namespace) -> str:
    """What the files of a job are named: another length, or other settings, also of the proof, are other files."""
    config = training(proof.settings, options).to_json()
    settings = {key: value for key, value in config.items() if key not in MAY_CHANGE}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{row_stem(proof, job.name, options)}-{options.images}x{options.samples}-{digest}"


def row_of(job: Job) -> str:
    return SHARED if job.is_shared else job.row


def annotated(options: argparse.Namespace) -> dict[str, int]:
    """How a row is annotated, for its record and those of what is trained on it."""
    return {"draws": options.draws, "steps": options.steps}


def arm_of(label: str, slim: Path) -> Arm:
    """The arm of a label. ``fixed`` has the threshold of the mean curve, of several sources the median of theirs."""
    if label == "fixed":
        about = slim.parents[1] / "results" / f"{slim.stem}-annotation.json"
        return fixed(round(json.loads(about.read_text())["fixed"], 4))
    return {"clean": CLEAN, "all": ALL, UNDAMAGED: ALL}.get(label, AMBIENT)


def work(
    proof: Proof, job: Job, judge: Judge, options: argparse.Namespace, stop: Callable[[], bool], reporter: Reporter
) -> bool:
    """Train a job's run, or continue it, measure it and write it down. False where ``stop`` came first."""
    stem = job_stem(proof, job, options)
    run, path = options.work / "runs" / stem, options.work / "arms" / f"{stem}.parquet"
    slim = manifest_of(proof, job.row, options, job.label)
    arm, change, table = arm_of(job.label, slim), ABLATIONS.get(job.label), pq.read_table(slim)
    write_arm(slim, table, np.zeros(len(table), dtype=bool), arm, path)
    config = training_of(proof.settings, job, options)
    undo = change.patch() if change else lambda: None
    try:
        train(
            path,
            run,
            config,
            device=options.device,
            roots=_roots(proof, job.row, options),
            workers=_READERS,
            stop=stop,
            report=spoken(reporter),
        )
    finally:
        undo()
    if stop():
        return False
    roots = _roots(proof, job.row, options)
    found = record(run, path, arm, job.seed, judge, roots=roots, workers=_READERS, reporter=reporter)
    pixels = found.pop("first")
    about: dict[str, Any] = {"proof": proof.name, "row": row_of(job), "label": job.label}
    about |= {"pool_size": proof.size(options), "annotated": annotated(options)}
    about["images_per_s"] = float(np.median([json.loads(line)["images_per_s"] for line in _lines(run)]))
    about["trainers"] = options.trainers
    about["formula"] = change.formula if change else arm.meaning
    about["known"] = {"clean": found.pop("validation_taught"), **damage_known(proof, job, run, judge)}
    save_grid(options.work / "results" / f"{stem}.png", pixels[:8], columns=8)
    write_json(options.work / "results" / f"{stem}.json", {**about, **found, **_where_and_when(proof, options)})
    reporter.say(f"{stem}: Frechet distance {found['measures']['frechet']['value']:.3f}")
    return True


def damage_known(proof: Proof, job: Job, run: Path, judge: Judge) -> dict[str, Any]:
    """Denoising errors of a run on the damaged pictures that it trained on, and on others with the same damage."""
    if job.label == "clean":
        return {}
    trained = load_trained(run, judge.extractor.device, warn=print)
    kinds, others = proof.rows[job.row], np.flatnonzero(~proof.clean)
    places = np.linspace(0, len(others) - 1, min(_VALIDATED, len(others))).astype(int).tolist()
    known = [damaged(proof.pictures[others[i]], kind_at(i, kinds), int(others[i])) for i in places]
    unknown = [damaged(picture, kind_at(i, kinds), i) for i, picture in enumerate(proof.held_out)]
    found = {"damaged": known, "damaged_unknown": unknown}
    return {name: denoising(trained, _shown(np.stack(some)), judge).to_json() for name, some in found.items()}


def judge_of(proof: Proof, options: argparse.Namespace) -> Judge:
    """What every run is measured against: all training pictures as they were before any damage."""
    extractor = open_extractor(proof.extractor, choose_device(options.device))
    space = Space(resolution=proof.pictures.shape[1], channels=proof.channels)
    real = _tensor(proof.pictures)
    features = features_of(real, extractor)
    return Judge(
        extractor=extractor,
        reference=Reference(moments=moments(features), features=features[:MOST_IN_PAIRS]),
        fingerprint=content_id(proof.pictures.tobytes()),
        real=real[:MOST_IN_PAIRS],
        held_out=_shown(proof.held_out),
        taught=_shown(proof.pictures[proof.clean]),
        clean=resized(real[torch.from_numpy(proof.clean)], space_of_copies(space)),
        num=options.samples,
    )


def training(usual: Sequence[str], options: argparse.Namespace) -> TrainConfig:
    """The proofs' training, with three averages kept on the way. usual: settings of one proof."""
    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    settings = [
        f"compile={'on' if on_gpu else 'off'}",
        f"num_images={options.images}",
        "batch_size=512",
        "lr=1e-3",
        "warmup_images=50000",
        "keep_composition=false",  # but where an arm says so
        "network.multipliers=1,2,2",
        "network.blocks=2",
        "network.attention_resolutions=16",
        "network.dropout=0.13",  # this and augmentation as in arXiv 2506.10038
        "network.augment_dim=9",
        "augment=0.12",
        f"snapshot_images={-(-options.images // 3)}",
        f"sample_images={options.images}",
        "log_images=51200",
        "pictures=cache",
        "keep=1",
        *usual,
        *options.settings,
    ]
    return TrainConfig.from_settings(settings)


def training_of(usual: Sequence[str], job: Job, options: argparse.Namespace) -> TrainConfig:
    """The training of one job."""
    change = ABLATIONS.get(job.label)
    return replace(training(usual, options), seed=job.seed, **(change.settings if change else {}))


def _roots(proof: Proof, row: str, options: argparse.Namespace) -> dict[str, str]:
    folder = pool_of(proof, row, options).resolve()
    return {"pool": str(folder / "pool.zip"), "clean": str(folder / "clean.zip")}


def _lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def _tensor(pictures: U8) -> torch.Tensor:
    """(N, C, H, W)."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures))
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _shown(pictures: U8) -> Shown:
    some = _tensor(pictures[:_VALIDATED])
    return Shown(pixels=some, names=torch.arange(len(some)), labels=torch.full((len(some),), -1))


def command_of(proof: Proof, options: argparse.Namespace) -> str:
    """What gives the same values, whatever the defaults will be."""
    given = {"buffer": BUFFER}  # of text it would be 4.0, which is another name by ``job_stem``
    settings = changes(training(proof.settings, options).to_json(), given)
    numbers = {"images": options.images, "samples": options.samples, "pool_size": proof.size(options)}
    return command(proof.name, settings, **numbers, **annotated(options))


def _where_and_when(proof: Proof, options: argparse.Namespace) -> dict[str, str]:
    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": torch.cuda.get_device_name() if on_gpu else "CPU",
        "command": command_of(proof, options),
        **({"commit": options.commit} if options.commit else {}),
    }
