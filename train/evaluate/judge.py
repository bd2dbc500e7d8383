"""What a trained run is worth: measures of its samples, of its earlier averages, and of its denoising, as JSON."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...curate.reporter import Reporter
from ..config import TrainConfig
from ..device import compile_network, should_compile
from ..ema import FOLDER, reconstruct
from ..generate import SampleConfig, drawer, labels_of
from ..trained import Trained, load_trained, told
from .extractors import Extractor, features_of
from .measures import measure, measure_copies, measure_frechet, to_json
from .quality import compare_scores
from .reference import Reference
from .sources import resized
from .validation import Validation, validate

MOST_IN_CURVE = 2_000
"""Samples of each earlier moment."""

MOMENTS = 5
"""Of the training at most, the last among them."""

_BATCH = {"cpu": 64, "cuda": 1024}
_AS_TRAINING = 12  # training pictures that take as long as one picture's 35 evaluations


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Pictures on which denoising is measured: pixels (H, C, R, R) uint8; names (H,) int64, of their noise; labels (H,)
    int64, -1 where unknown.
    """

    pixels: Tensor
    names: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """What every run is measured against.

    reference, fingerprint: features of the real pictures, and the digest of which they are; real: some of them,
    (M, C, R, R) uint8.
    held_out: pictures that no run has seen; taught: clean ones that the arms clean, all and ambient train on.
    clean: (T, C, S, S) uint8, S <= R, clean training pictures, of which copies are looked for in every run alike.
    num: samples, of seeds 0 ... num - 1. seed: of chance in measuring.
    """

    extractor: Extractor
    reference: Reference
    fingerprint: str
    real: Tensor
    held_out: Shown
    taught: Shown
    clean: Tensor
    num: int
    seed: int = 0


def judge_run(run: Path, judge: Judge, trained_on: Tensor, *, workers: int, reporter: Reporter) -> dict[str, Any]:
    """Measures of the newest checkpoint's average, the Frechet distance at earlier moments, and denoising errors.

    With them goes how samples were drawn: seeds, solver, steps, and ``ema_std``, the length of the average.
    trained_on: (T, C, S, S) uint8, S <= R, pictures that the run was trained on, among which copies are looked for.
    """
    begin, device = time.monotonic(), judge.extractor.device
    trained = load_trained(run, device, warn=reporter.warn)
    # Before the curve, which puts earlier weights into the denoiser.
    validation, taught = (denoising(trained, shown, judge) for shown in (judge.held_out, judge.taught))
    reporter.say(f"{run}: drawing {judge.num:,} pictures")
    pixels = draw(trained, judge.num, device)
    features = features_of(pixels, judge.extractor)
    measured = measure(features, judge.reference, seed=judge.seed)
    small = replace(trained.space, resolution=trained_on.shape[-1])
    drawn = resized(pixels, small)
    for name, known in (("memorised", trained_on), ("memorised_clean", judge.clean)):
        measured[name] = measure_copies(drawn, known, device, seed=judge.seed, mirrored=trained.config.flip)
    how = SampleConfig()
    return {
        "checkpoint": trained.checksum,
        "samples": judge.num,
        "drawn": {
            "seeds": f"0-{judge.num - 1}",
            "ema_std": trained.config.ema_stds[0],
            "solver": how.solver,
            "steps": how.steps,
        },
        "judge_seed": judge.seed,
        "reference": {"pictures": judge.reference.moments.num, "fingerprint": judge.fingerprint},
        "features": {
            "name": judge.extractor.name,
            "digest": judge.extractor.digest,
            "dimensions": features.shape[1],
        },
        "memorised_among": {"pictures": len(trained_on)},
        "measures": to_json(measured),
        "quality": compare_scores(pixels, judge.real, workers=workers),
        "curve": _curve(run, trained, features, judge, reporter),
        "validation": validation.to_json(),
        "validation_taught": taught.to_json(),
        "judged_s": round(time.monotonic() - begin, 1),
        "first": pixels[:64],
    }


def draw(trained: Trained, num: int, device: torch.device) -> Tensor:
    """(num, C, R, R) uint8 pictures of seeds 0 ... num - 1, classes in turn; compiled as the run's training was."""
    config = SampleConfig()
    if should_compile(device, trained.config.compile, num * _AS_TRAINING):
        compile_network(trained.denoiser.network)  # once for all runs of a process: the networks are alike
    picture = drawer(trained, None, config, labels_of(trained, config))
    size = min(_BATCH[device.type], num)
    # Every batch has the same size, since rounding depends on it.
    parts = [picture(torch.arange(start, start + size, device=device)) for start in range(0, num, size)]
    return torch.cat(parts)[:num]


def denoising(trained: Trained, shown: Shown, judge: Judge) -> Validation:
    """Errors on some pictures, each told its class where the run has classes."""
    classes = None
    if trained.config.num_classes:
        classes = torch.where(shown.labels < 0, trained.config.num_classes, shown.labels)

    def denoise(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        return told(trained.denoiser, condition, trained.config)(x, sigma)

    device = judge.extractor.device
    return validate(denoise, shown.pixels, shown.names, classes, seed=judge.seed, device=device)


def moments_of(run: Path, config: TrainConfig, *, most: int = MOMENTS) -> list[int]:
    """Pictures seen at the stored averages of a run: at most so many, evenly spread, the last among them.

    config: of the run. Where a run was stopped and continued, it stored an average, too; those are left out, so that
    the moments are the same for all runs of one configuration.
    """
    stored = {int(path.stem[:12]) for path in (run / FOLDER).glob("[0-9]*.safetensors")}
    every, step = config.snapshot_images, config.batch_size
    due = {-(-every * k // step) * step for k in range(1, config.num_images // every + 1)}  # the first step past each
    kept = sorted((due & stored) | {max(stored)})
    return [kept[round((i + 1) * len(kept) / most) - 1] for i in range(most)] if len(kept) > most else kept


def _curve(run: Path, trained: Trained, last: Tensor, judge: Judge, reporter: Reporter) -> list[dict[str, Any]]:
    """Frechet distance at several moments, of the same number of samples each, so that they compare."""
    num, moments = min(judge.num, MOST_IN_CURVE), moments_of(run, trained.config)
    out = []
    for moment in moments:
        features = last[:num]
        if moment != moments[-1]:
            weights = reconstruct(run, trained.config.ema_stds[0], num_images=moment)
            with torch.no_grad():
                for name, weight in trained.denoiser.named_parameters():
                    weight.copy_(weights[name])
            reporter.say(f"{run}: {num:,} pictures of the average at {moment:,}")
            features = features_of(draw(trained, num, judge.extractor.device), judge.extractor)
        distance = measure_frechet(features, judge.reference, seed=judge.seed)
        out.append({"images": moment, "samples": num, "frechet": distance.to_json()})
    return out
