"""What a training run would do, without doing it."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ..curate.reporter import Reporter
from ..schemas.space import Space
from .batches import conditions
from .checkpoint import newest
from .config import TrainConfig
from .loop import build_sampler
from .monitor import BAND_EDGES, band_names
from .networks.kinds import build_network
from .pictures import check_readable, gone
from .precondition import Denoiser
from .remarks import remarks
from .rows import read_rows
from .run import about_run, check_folder, check_same
from .state import weights_bytes

_DRAWS = 1 << 16  # sigmas by which usable pictures are averaged over a band
_COMPILED = 0.4  # of the activations, at most; on an H200 0.27 were measured for DDPM++, 0.38 for EDM2-XS


def describe(
    manifest: Path, config: TrainConfig, *, out: Path | None = None, roots: dict[str, str] | None = None
) -> dict[str, Any]:
    """What ``train`` would do with this manifest, as JSON; no picture is read.

    ``bands``: per band of noise levels its share of training, the mean number of pictures usable there, and how often
    a clean one would be seen (without ``keep_composition``, one that is usable everywhere). ``clean_repeats``: how
    often it is seen in the whole run.
    ``memory_gib``: of one GPU with all weights on it: ``weights`` with their gradients, moments and averages;
    ``activations`` of ``micro_batch`` pictures or of the whole batch, and ``activations_compiled``, about, where the
    network is compiled; ``pictures``, if they live there, too.
    ``remarks``: what ``train`` says of the pictures.
    ``uncovered_share``: of the training density, where no picture is usable.
    out: of the run, to say how many pictures it has seen already, ``done``. Raises UserError where ``train`` would
    refuse before it reads a picture.
    """
    rows = read_rows(manifest, resolution=config.resolution, roots=roots)
    check_readable(rows)
    about, done = about_run(config, rows), 0
    if out is not None:
        check_folder(out)
        found = newest(out, parts=(), warn=Reporter().warn, check=lambda saved: check_same(out, saved, about))
        done = found[1].num_images if found else 0
    conditions(rows, config.num_classes)
    sampler = build_sampler(rows, config)
    parameters, of_one = _size(config, rows.space)
    activations = of_one * (config.micro_batch or config.batch_size)
    _, sigma = sampler.draw(torch.arange(_DRAWS))
    usable, chance = sampler.usable_count(sigma).double(), sampler.chance_of_clean(sigma)
    edges = [0.0, *BAND_EDGES, math.inf]
    bands = {}
    for name, (low, high) in zip(band_names(), pairwise(edges), strict=True):
        inside = (sigma > low) & (sigma <= high)
        if share := int(inside.sum()) / _DRAWS:
            seen = config.num_images * float(chance[inside].sum()) / _DRAWS
            bands[name] = {"share": share, "usable": float(usable[inside].mean()), "repeats": seen}
    return {
        "config": config.to_json(),
        "space": str(rows.space),
        "pictures": len(rows),
        "parameters": parameters,
        "memory_gib": {
            "weights": round(weights_bytes(parameters, config) / 2**30, 2),
            "activations": round(activations / 2**30, 2),
            "activations_compiled": round(_COMPILED * activations / 2**30, 2),
            "pictures": round(len(rows) * math.prod(rows.space.shape) / 2**30, 2),
        },
        "steps": config.num_steps,
        "done": done,
        "bands": bands,
        "remarks": [*remarks(rows, config, sampler), *(f"{rows.roots[name]} is gone" for name in gone(rows))],
        "clean_repeats": sum(band["repeats"] for band in bands.values()),
        "uncovered_share": sampler.uncovered.share,
    }


def _size(config: TrainConfig, space: Space) -> tuple[int, float]:
    """Number of weights, and bytes of activations that one picture keeps until backward(), without making any."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        kept[memory._cdata] = memory.nbytes()
        return tensor

    with FakeTensorMode():
        network = build_network(
            config.network, channels=space.channels, resolution=space.resolution, num_classes=config.num_classes
        )
        denoiser = Denoiser(network, sigma_data=space.sigma_data)
        weights = {weight.untyped_storage()._cdata for weight in denoiser.parameters()}
        condition = torch.zeros(2, dtype=torch.int64) if config.num_classes else None
        half = torch.autocast("cpu", torch.bfloat16, enabled=config.precision != "fp32")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), half:
            output = denoiser(torch.zeros(2, *space.shape), torch.ones(2), condition)
    activations = sum(size for memory, size in kept.items() if memory not in weights) / len(output)
    return sum(weight.numel() for weight in denoiser.parameters()), activations
