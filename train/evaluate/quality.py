"""Quality scores of samples against those of real pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...curate.device import choose_device
from ...curate.parallel import map_in_order
from ...curate.ranks import better_of
from ...curate.scorers import Scorer, measure_all
from ...curate.scores import SCORES, score
from .chance import interval, share_interval
from .measures import Measured

MOST_SCORED = 2_000
"""Pictures of a set that are scored."""


def scores_of(
    pixels: Tensor,
    *,
    workers: int,
    scorers: Sequence[Scorer] = (),
    device: torch.device | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, NDArray[np.float64]]:
    """Every built-in measure with a good end, and those of networks, of pictures (N, C, H, W) uint8.

    Name -> (N,) values as they are, of a network NaN for pictures that it cannot judge, as those too small for it.
    scorers: the networks. device: theirs, and of batches. warn: told what a network says when it fails.
    """
    pictures = pixels[:MOST_SCORED].expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    rows = list(map_in_order(score, pictures, workers=workers))
    found = {name: np.array([row[name] for row in rows]) for name, kind in SCORES.items() if kind.better}
    pieces = ((i, {scorer.name: scorer.cut(picture) for scorer in scorers}) for i, picture in enumerate(pictures))
    judged, problems = measure_all(pieces, list(scorers), len(pictures), device or choose_device("cpu"))
    for name, problem in problems.items():
        warn(f"{name} failed on some pictures: {problem}")
    return found | judged


def win_rate(x: NDArray[np.float64], y: NDArray[np.float64]) -> Measured:
    """How often a sample's score is better than a reference picture's, ties half; 0.5 where both are alike.

    x: (N,), y: (M,), higher is better. The area under the ROC curve, with DeLong's standard error (1988).
    """

    def beaten(a: NDArray[np.float64], b: NDArray[np.float64]) -> Tensor:
        order = np.sort(b)
        below, up_to = (np.searchsorted(order, a, side=side) for side in ("left", "right"))
        return torch.from_numpy((below + up_to) / (2 * len(b)))

    of_x, of_y = beaten(x, y), beaten(y, x)
    error = float((of_x.var() / len(x) + of_y.var() / len(y)).sqrt())
    mean = float(of_x.mean())
    low, high = interval(mean, error)
    if mean in (0.0, 1.0):  # all of one set beat all of the other: DeLong's error is 0, and yet it is not certain
        low, high = share_interval(torch.full((min(len(x), len(y)),), mean))
    return Measured(value=mean, error=error, within=(max(low, 0.0), min(high, 1.0)))


def compare_scores(
    samples: Tensor,
    reference: Tensor,
    *,
    workers: int,
    scorers: Sequence[Scorer] = (),
    device: torch.device | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """For each score medians of samples and reference, (N, C, H, W) uint8, and the win rate, as JSON.

    scorers, device, warn: as in ``scores_of``. Pictures that a network cannot judge are left out, warned of and counted
    (``unjudged``); the network itself is left out where it judges fewer than two of a set.
    """
    about: dict[str, Any] = {"workers": workers, "scorers": scorers, "device": device, "warn": warn}
    ours, theirs = (scores_of(pixels, **about) for pixels in (samples, reference))
    found = {}
    for name in ours:
        mine, real = (values[name][np.isfinite(values[name])] for values in (ours, theirs))
        unjudged = {"samples": len(ours[name]) - len(mine), "reference": len(theirs[name]) - len(real)}
        if any(unjudged.values()):
            told = f"{len(mine)} of {len(ours[name])} samples and {len(real)} of {len(theirs[name])} reference pictures"
            warn(
                f"{name} can judge {told}" + (": left out" if min(len(mine), len(real)) < 2 else ", and tells of those")
            )
        if min(len(mine), len(real)) < 2:
            continue
        sign = -1.0 if better_of(name) == "low" else 1.0
        found[name] = {
            "samples": float(np.median(mine)),
            "reference": float(np.median(real)),
            "win_rate": win_rate(sign * mine, sign * real).to_json(),
            **({"unjudged": unjudged} if any(unjudged.values()) else {}),
        }
    return found
