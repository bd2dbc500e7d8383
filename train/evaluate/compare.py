"""``ambient compare``: does it help to use damaged pictures at the right noise levels? On the user's own pool."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ... import __version__
from ...curate.columns import is_
from ...curate.device import choose_device
from ...curate.noise import names_of
from ...curate.reporter import Reporter
from ...curate.uris import Roots
from ...curate.whole import create_whole, writing
from ...schemas.errors import UserError
from ...schemas.usable import beta_of, usable
from ..config import TrainConfig, first_difference
from ..loop import train
from ..rows import read_rows
from ..run import spoken
from ..samples import load_pngs, save_grid
from .arms import ALL, AMBIENT, CLEAN, Arm, Mask, alike, fixed, held_out, split, used_by, write_arm
from .evaluate import (
    FEWEST,
    EvalConfig,
    as_json,
    check_reference,
    extractor_for,
    read_json,
    trained_pictures,
    warn_of_few,
    write_json,
)
from .judge import MOMENTS, Judge, Shown, judge_run
from .plots import draw_plots
from .quality import MOST_SCORED
from .reference import reference_of
from .sources import ALL as ALL_ROWS
from .sources import Source, check_roots, count, open_source, read, roots_in
from .validation import LEVELS
from .verdict import RULE, Mean, Result, by_arm, by_heart, mean_of, verdicts

MOST_VALIDATED = 1_000
"""Held-out pictures on which denoising is measured, and clean training pictures."""

_GRID = 8  # pictures of each arm side by side
_COLUMNS = ("frechet", "kernel", "precision", "recall", "density", "coverage", "vendi", "memorised_clean")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """What is compared with what.

    train: the same for every arm but for the seed; its snapshots are moved to MOMENTS of the training. seeds: 0 ... so
    many less one. fixed: one sigma_min for an arm of its own, or None. more: other arms. features, weights: as
    ``EvalConfig``. reference: real pictures, None for the clean ones that are held out; where: which rows of it.
    holdout: which share of the clean pictures no arm is trained on. num: samples of each run.
    """

    train: TrainConfig
    seeds: int = 3
    fixed: float | None = None
    more: tuple[Arm, ...] = ()
    features: str = "texture"
    weights: dict[str, str] = field(default_factory=dict)
    reference: Path | None = None
    where: str | None = None
    holdout: float = 0.2
    num: int = 2_000

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.num < FEWEST:
            raise UserError(f"--seeds must be at least 1 and --num at least {FEWEST}, not {self.seeds} and {self.num}")
        if not 0 < self.holdout < 1:
            raise UserError(f"--holdout must lie between 0 and 1, not {self.holdout}")
        if self.where is not None and self.reference is None:
            raise UserError("--where picks rows of a --reference: name one, or leave it out")
        names = [arm.name for arm in self.arms]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"two arms are named {double[0]}: name each differently")

    @property
    def arms(self) -> tuple[Arm, ...]:
        extra = () if self.fixed is None else (fixed(self.fixed),)
        return (CLEAN, ALL, AMBIENT, *extra, *self.more)

    def train_of(self, seed: int) -> TrainConfig:
        """The training of one seed."""
        every = -(-self.train.num_images // MOMENTS)
        return replace(self.train, seed=seed, snapshot_images=every, sample_images=self.train.num_images, keep=1)


def compare(
    manifest: Path,
    out: Path,
    config: CompareConfig,
    *,
    device: str = "auto",
    roots: Roots | None = None,
    workers: int = 4,
    stop: Callable[[], bool] = lambda: False,
    reporter: Reporter | None = None,
) -> list[Result]:
    """Train every arm with every seed, measure each, and say what the differences are worth.

    The same call continues: what has a file in out/results is not done again, what was being trained goes on. More
    seeds and arms may be asked for later. Writes into ``out``: compare.json, arms/, runs/, results/, samples/,
    summary.json and plots. stop: asked before each training step; True ends it, with what is finished so far.
    roots: where those of the manifest and of a reference lie now. Returns the results. Raises UserError for what the
    user can put right: what is wrong with an arm or the reference is said before anything is trained.
    """
    reporter = reporter or Reporter()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("ambient compare trains one run after the other in one process: start it without torchrun")
    table, out_of_training = _used(manifest, config, roots)
    for before, name in alike(table, out_of_training, config.arms):
        reporter.warn(f"arms {before} and {name} train on the same pictures at the same noise levels")
    judge = build_judge(manifest, config, device=device, roots=roots, workers=workers, reporter=reporter)
    _claim(out, _setup(manifest, judge, config))
    jobs = [(arm, seed) for seed in range(config.seeds) for arm in config.arms]
    done = {(arm.name, seed): _recorded(out, arm, seed) for arm, seed in jobs}
    for arm in {arm.name: arm for arm, seed in jobs if done[arm.name, seed] is None}.values():
        write_arm(manifest, table, out_of_training, arm, _manifest_of(out, arm))  # it may have been another arm before
    own = roots_in(manifest, roots)
    results: list[Result] = []
    for number, (arm, seed) in enumerate(jobs):
        result = done[arm.name, seed]
        if result is None:
            reporter.say(f"{number + 1} of {len(jobs)}: arm {arm.name}, seed {seed}: {arm.meaning}")
            path, run, begin = _manifest_of(out, arm), out / "runs" / f"{arm.name}-{seed}", time.monotonic()
            trained = config.train_of(seed)
            report = spoken(reporter)
            train(path, run, trained, device=device, roots=own, workers=workers, stop=stop, report=report)
            if stop():
                return results
            train_s = round(time.monotonic() - begin, 1)
            result = record(run, path, arm, seed, judge, roots=own, workers=workers, reporter=reporter)
            _write(out, {**result, "train_s": train_s})
            result = _recorded(out, arm, seed)
            assert result is not None
        results.append(result)
    summarise(results, out)
    return results


def record(
    run: Path,
    manifest: Path,
    arm: Arm,
    seed: int,
    judge: Judge,
    *,
    roots: Roots | None = None,
    workers: int,
    reporter: Reporter,
) -> dict[str, Any]:
    """What is written down of a finished run. manifest: of its arm; roots: where those lie now."""
    own = open_source(manifest, where=ALL_ROWS, roots=roots, workers=workers, reporter=reporter)
    assert own.space is not None
    taught = trained_pictures(own, own.space, seed=judge.seed, workers=workers, reporter=reporter)
    rows, about = read_rows(manifest), json.loads((run / "config.json").read_text())
    sigma_min, sigma_max = rows.sigma_min.double(), rows.sigma_max.double()
    beta = beta_of(about["config"]["buffer"])
    counts = [int(usable(torch.tensor(level), sigma_min, sigma_max, beta).sum()) for level in LEVELS]
    finite = sigma_min[sigma_min.isfinite() & (sigma_min > 0)]
    return {
        "arm": arm.name,
        "seed": seed,
        "definition": asdict(arm),
        "pictures": len(rows),
        "everywhere": int((sigma_min == 0).sum()),
        "sigma_min_mean": float(finite.mean()) if len(finite) else 0.0,
        "usable": {"sigma": list(LEVELS), "pictures": counts},
        **judge_run(run, judge, taught, workers=workers, reporter=reporter),
        **{key: about[key] for key in ("config", "fingerprint", "space", "device", "torch")},
        "version": __version__,
    }


def build_judge(
    manifest: Path, config: CompareConfig, *, device: str, roots: Roots | None, workers: int, reporter: Reporter
) -> Judge:
    """What all arms are measured against: held-out clean pictures, and the reference.

    Raises UserError where there are too few of either.
    """
    clean = open_source(manifest, roots=roots, workers=workers, reporter=reporter)
    space = clean.space
    assert space is not None
    is_held = held_out(list(clean.ids), config.holdout)
    held, taught = (clean.rows(np.flatnonzero(some).tolist()) for some in (is_held, ~is_held))
    _check_clean(len(held), len(clean))
    reference = held
    if config.reference is not None:
        reference = open_source(config.reference, where=config.where, roots=roots, workers=workers, reporter=reporter)
    eval_config = EvalConfig(features=config.features, weights=config.weights)
    extractor, reference = extractor_for(eval_config, reference, space, choose_device(device), workers, reporter)
    known = reference_of(reference, space, extractor, workers=workers, reporter=reporter)
    check_reference(known.moments.num, reference.name)
    warn_of_few(config.num, known.moments.num, known.features.shape[1], reporter)

    def pictures(source: Source, most: int) -> tuple[Tensor, Source]:
        some = source.some(most, seed=0)
        pixels, kept = read(some, space, workers=workers, reporter=reporter)
        return pixels, some.rows(kept)

    def shown(source: Source) -> Shown:
        pixels, kept = pictures(source, MOST_VALIDATED)
        return Shown(pixels=pixels, names=names_of(list(kept.ids)), labels=kept.labels)

    return Judge(
        extractor=extractor,
        reference=known,
        fingerprint=reference.fingerprint(),
        real=pictures(reference, MOST_SCORED)[0],
        held_out=shown(held),
        taught=shown(taught),
        clean=trained_pictures(taught, space, seed=0, workers=workers, reporter=reporter),
        num=config.num,
    )


def summary(results: list[Result]) -> dict[str, Any]:
    """What is said of results, as JSON: the means of each arm, the verdicts and their rule."""
    means = {
        arm: {m: asdict(mean_of(list(seeds.values()), m)) for m in _COLUMNS} for arm, seeds in by_arm(results).items()
    }
    said = [{**asdict(verdict), "sentence": verdict.sentence()} for verdict in verdicts(results)]
    known = by_heart(results)
    clean = None if known is None else {**asdict(known), "sentence": known.sentence()}
    return {"rule": RULE, "means": means, "verdicts": said, "by_heart": clean}


def summarise(results: list[Result], out: Path) -> None:
    """Write summary.json, the plots, and a grid: a line of pictures for each arm, from the same noise."""
    write_json(out / "summary.json", summary(results))
    draw_plots(results, out)
    rows = [load_pngs([out / "samples" / f"{arm}-{min(seeds)}.png"]) for arm, seeds in by_arm(results).items()]
    save_grid(out / "grid.png", torch.cat(rows), columns=1, zoom=2)


def table(results: list[Result]) -> pa.Table:
    """A row for each arm: means over seeds and half the width of their 90 % intervals."""

    def shown(mean: Mean) -> str:
        return f"{mean.value:.4g} +- {mean.half:.2g}"

    rows = []
    for arm, seeds in by_arm(results).items():
        found, first = list(seeds.values()), next(iter(seeds.values()))
        counts = {"arm": arm, "seeds": len(seeds), "pictures": first["pictures"], "everywhere": first["everywhere"]}
        rows.append({**counts, **{measure: shown(mean_of(found, measure)) for measure in _COLUMNS}})
    return pa.Table.from_pylist(rows)


def plan(manifest: Path, config: CompareConfig, *, roots: Roots | None = None) -> dict[str, Any]:
    """What ``compare`` would do, as JSON; no picture is read.

    ``pictures``: how many each arm trains on; ``alike``: pairs of arms that train on the same. roots: as in
    ``compare``. Raises UserError where an arm or the reference has too few.
    """
    table, held = _used(manifest, config, roots)
    if config.reference is not None:
        check_reference(count(config.reference, where=config.where, roots=roots), str(config.reference))
    return {
        "arms": {arm.name: arm.meaning for arm in config.arms},
        "pictures": {arm.name: int(used_by(table, held, arm).sum()) for arm in config.arms},
        "alike": alike(table, held, config.arms),
        "seeds": config.seeds,
        "runs": len(config.arms) * config.seeds,
        "training_pictures": len(config.arms) * config.seeds * config.train.num_images,
        "samples": len(config.arms) * config.seeds * config.num,
        "held_out": int(held.sum()),
        "rows": len(table),
        "rule": RULE,
        "train": config.train.to_json(),
    }


def _used(manifest: Path, config: CompareConfig, roots: Roots | None) -> tuple[pa.Table, Mask]:
    """As ``split``, after a look at all that needs no picture: names of roots, arms, how many pictures are clean."""
    check_roots([manifest, *([config.reference] if config.reference else [])], roots)
    table, out_of_training = split(manifest, config.holdout)
    num_clean = int((is_(table, "status", "ok") & is_(table, "role", "clean")).sum())
    _check_clean(int(out_of_training.sum()), num_clean)
    for arm in config.arms:
        used_by(table, out_of_training, arm)
    return table, out_of_training


def _check_clean(num_held: int, num: int) -> None:
    if min(num_held, num - num_held) < FEWEST:
        raise UserError(
            f"{num} clean pictures, of which {num_held} are held out of training, are too few: {FEWEST} on each side "
            "are needed; change --holdout, or annotate with more clean pictures"
        )


def _manifest_of(out: Path, arm: Arm) -> Path:
    return out / "arms" / f"{arm.name}.parquet"


def _setup(manifest: Path, judge: Judge, config: CompareConfig) -> dict[str, Any]:
    """What must be the same for all results of a folder."""
    train_config = {key: value for key, value in config.train.to_json().items() if key != "seed"}
    return {
        "manifest": read_rows(manifest).fingerprint,
        "features": judge.extractor.digest,
        "reference": judge.fingerprint,
        "holdout": config.holdout,
        "num": config.num,
        "train": train_config,
    }


def _claim(out: Path, setup: dict[str, Any]) -> None:
    """Write down what is compared, or check that the folder holds the same comparison."""
    path = out / "compare.json"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            create_whole(path, as_json(setup))
    if difference := first_difference(read_json(path), json.loads(as_json(setup))):
        raise UserError(f"{out} holds a comparison with another {difference[0]}: choose another -o")


def _recorded(out: Path, arm: Arm, seed: int) -> Result | None:
    path = out / "results" / f"{arm.name}-{seed}.json"
    if not path.exists():
        return None
    result: Result = read_json(path)
    if result.get("definition") != asdict(arm):
        raise UserError(f"{path} is of another arm named {arm.name}: name this one differently")
    if not set(_COLUMNS) <= set(result.get("measures", ())):
        raise UserError(f"{path} was written by another version of ambient: choose another -o")
    return result


def _write(out: Path, result: dict[str, Any]) -> None:
    """The first pictures go into a PNG, the rest into JSON, which is written last."""
    name, pixels = f"{result['arm']}-{result['seed']}", result.pop("first")
    (out / "samples").mkdir(parents=True, exist_ok=True)
    save_grid(out / "samples" / f"{name}.png", pixels[:_GRID], columns=_GRID)
    write_json(out / "results" / f"{name}.json", result)
