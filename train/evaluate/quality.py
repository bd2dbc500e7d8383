"""Quality scores of samples against those of real pictures."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...curate.parallel import map_in_order
from ...curate.scores import SCORES, score
from .chance import interval, share_interval
from .measures import Measured

MOST_SCORED = 2_000
"""Pictures of a set that are scored."""


def scores_of(pixels: Tensor, *, workers: int) -> dict[str, NDArray[np.float64]]:
    """Every built-in measure with a good end, (N,) values of pictures (N, C, H, W) uint8; higher is better in all."""
    pictures = pixels[:MOST_SCORED].expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    rows = list(map_in_order(score, pictures, workers=workers))
    return {name: _sign(name) * np.array([row[name] for row in rows]) for name, kind in SCORES.items() if kind.better}


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


def compare_scores(samples: Tensor, reference: Tensor, *, workers: int) -> dict[str, Any]:
    """For each score medians of samples and reference, (N, C, H, W) uint8, and the win rate, as JSON."""
    ours, theirs = (scores_of(pixels, workers=workers) for pixels in (samples, reference))
    return {
        name: {
            "samples": _sign(name) * float(np.median(ours[name])),
            "reference": _sign(name) * float(np.median(theirs[name])),
            "win_rate": win_rate(ours[name], theirs[name]).to_json(),
        }
        for name in ours
    }


def _sign(name: str) -> float:
    return -1.0 if SCORES[name].better == "low" else 1.0
