"""What a training run would do, without doing it."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .batches import conditions
from .config import TrainConfig
from .loop import build_sampler
from .monitor import BAND_EDGES, band_names
from .rows import read_rows
from .state import build_denoiser

_DRAWS = 1 << 16  # sigmas by which usable pictures are averaged over a band


def describe(manifest: Path, config: TrainConfig, *, roots: dict[str, str] | None = None) -> dict[str, Any]:
    """What ``train`` would do with this manifest, as JSON; no picture is read.

    ``bands``: per band of noise levels its share of training, the mean number of pictures usable there, and how often
    each would be seen. ``clean_repeats``: how often a picture usable everywhere is seen in the whole run.
    ``uncovered_share``: of the training density, where no picture is usable.
    Raises UserError where ``train`` would refuse before its first step.
    """
    rows = read_rows(manifest, resolution=config.resolution, roots=roots)
    conditions(rows, config.num_classes)
    sampler = build_sampler(rows, config)
    denoiser = build_denoiser(config, rows.space)
    _, sigma = sampler.draw(torch.arange(_DRAWS))
    usable = sampler.usable_count(sigma).double()
    edges = [0.0, *BAND_EDGES, math.inf]
    bands = {}
    for name, (low, high) in zip(band_names(), pairwise(edges), strict=True):
        inside = usable[(sigma > low) & (sigma <= high)]
        if len(inside):
            seen = config.num_images * float((1 / inside).sum()) / _DRAWS
            bands[name] = {"share": len(inside) / _DRAWS, "usable": float(inside.mean()), "repeats": seen}
    return {
        "config": config.to_json(),
        "space": str(rows.space),
        "pictures": len(rows),
        "parameters": sum(weight.numel() for weight in denoiser.parameters()),
        "steps": config.num_steps,
        "bands": bands,
        "clean_repeats": sum(band["repeats"] for band in bands.values()),
        "uncovered_share": sampler.uncovered.share,
    }
