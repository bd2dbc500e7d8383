"""What a run should know of its pictures before it spends a day on them."""

import numpy as np
import torch

from .config import TrainConfig
from .rows import Rows
from .sampler import Sampler

_DRAWS = 1 << 14  # noise levels over which chances are averaged
_NAMED = 8  # classes that a line names


def remarks(rows: Rows, config: TrainConfig, sampler: Sampler) -> list[str]:
    """Lines: how often a clean picture is seen in the whole run, and what labels do not tell."""
    return [_repeats(config, sampler), *_labels(rows, config)]


def _repeats(config: TrainConfig, sampler: Sampler) -> str:
    num = sampler.num_clean or sampler.num_everywhere
    if num == 0:
        return "no picture is usable at every noise level"
    _, sigma = sampler.draw(torch.arange(_DRAWS))
    times = config.num_images * float(sampler.chance_of_clean(sigma).mean())
    kind, which = ("clean ", "") if sampler.num_clean else ("", " usable at every noise level")
    whose = f"the one {kind}picture" if num == 1 else f"each of the {num:,} {kind}pictures"
    return f"{whose}{which} will be seen about {times:,.3g} times"


def _labels(rows: Rows, config: TrainConfig) -> list[str]:
    if config.num_classes == 0:
        return []
    lines, labels = [], rows.labels
    if without := int((labels < 0).sum()):
        lines.append(f"{without:,} of {len(labels):,} pictures have no label: they are trained on without a class")
    if empty := sorted(set(range(config.num_classes)) - set(np.unique(labels.numpy()).tolist())):
        some = ", ".join([*map(str, empty[:_NAMED]), *["..."] * (len(empty) > _NAMED)])
        lines.append(f"{len(empty):,} of {config.num_classes:,} classes have no picture, and learn nothing: {some}")
    return lines
