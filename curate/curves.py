"""p_clean(sigma) = E_z[c(w_0 + sigma z, sigma)] of pictures on a grid of levels (arXiv 2506.10038, section 3)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .noise import Purpose, normals
from .threshold import Array, crossing, isotonic

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, H, W) float, sigma (N,)) -> (N,) logits of "clean"."""

_DRAW_BITS = 14  # a stream's index is level * 2^14 + draw
_WINDOWS = (16, 8)  # levels around the crossing that get further draws, round by round


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """mean: (N, L) estimates of p_clean; variance: (N, L) of one draw; count: (N, L) draws behind each."""

    mean: Array
    variance: Array
    count: Array


@torch.inference_mode()
def p_clean(
    classifier: Classifier,
    pictures: Tensor,
    names: Tensor,
    grid: Tensor,
    *,
    levels: Tensor | None = None,
    draws: int,
    first: int = 0,
    seed: int = 0,
    batch: int = 256,
) -> Tensor:
    """Probability of "clean" for every picture, noise level and draw.

    Each (picture, level, draw) has noise of its own, keyed by the picture's name: independent across levels, and the
    same whatever the batch.

    pictures: (N, C, H, W) float in [-1, 1]; names: (N,) int64 from ``names_of``; grid: (L,) noise levels.
    levels: (N, K) int64 indices into the grid, all levels when left out. draws: how many, numbered from `first`.
    batch: network evaluations at a time. Returns (N, K, draws) float32 in (0, 1), on the pictures' device.
    """
    num, device = len(pictures), pictures.device
    everywhere = torch.arange(len(grid), device=device)
    out = torch.empty(num, len(grid) if levels is None else levels.shape[1], draws, device=device)
    step = max(1, batch // draws)
    draw = torch.arange(first, first + draws, device=device)
    for start in range(0, num, step):
        x0, keys = pictures[start : start + step], names[start : start + step].repeat_interleave(draws)
        for k in range(out.shape[1]):
            # One level for all keeps stride 0, which tells the classifier so.
            level = everywhere[k].expand(len(x0)) if levels is None else levels[start : start + step, k]
            index = ((level << _DRAW_BITS)[:, None] + draw).flatten()
            z = normals(keys, x0[0].numel(), seed=seed, purpose=Purpose.CURVE, index=index).view(-1, *x0.shape[1:])
            sigma = grid[k].expand(len(z)) if levels is None else grid[level].repeat_interleave(draws)
            x = x0.repeat_interleave(draws, dim=0) + sigma[:, None, None, None] * z
            out[start : start + step, k] = torch.sigmoid(classifier(x, sigma).float()).view(len(x0), draws)
    return out


def search(
    classifier: Classifier, pictures: Tensor, names: Tensor, grid: Array, *, draws: int, tau: float, seed: int = 0
) -> Curves:
    """Curves with most of the draws where they decide: near each picture's own crossing of tau.

    A quarter of the budget, at least 2 draws, goes to every level; half of the rest to the 16 levels around the
    crossing found so far, the other half to the 8 around the crossing then found.
    draws: mean number per level, so that the cost is L * draws evaluations per picture. Arguments as ``p_clean``.
    """
    num, size = len(pictures), len(grid)
    device_grid = torch.tensor(grid, dtype=torch.float32, device=pictures.device)
    total, squares, count = (np.zeros((num, size)) for _ in range(3))

    def add(levels: Tensor | None, draws: int, first: int) -> None:
        found = p_clean(classifier, pictures, names, device_grid, levels=levels, draws=draws, first=first, seed=seed)
        values = found.double().cpu().numpy()
        at = np.arange(size)[None] if levels is None else levels.cpu().numpy()
        rows = np.arange(num)[:, None]
        total[rows, at] += values.sum(axis=2)
        squares[rows, at] += (values**2).sum(axis=2)
        count[rows, at] += draws

    first = min(draws, max(2, draws // 4))
    add(None, first, 0)
    left = size * (draws - first)
    for round_, window in enumerate(_WINDOWS):
        extra = left // (len(_WINDOWS) - round_) // window
        if extra and num:
            sigma = crossing(isotonic(total / count, count), grid, tau)
            centre = np.searchsorted(grid, sigma)  # 0 for 0, the number of levels for inf
            start = np.clip(centre - window // 2, 0, size - window)
            levels = torch.tensor(start[:, None] + np.arange(window), device=pictures.device)
            add(levels, extra, first)
            first, left = first + extra, left - extra * window
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0) * count / np.maximum(count - 1, 1)
    variance = np.where(count > 1, variance, mean * (1 - mean))  # of one draw, the most that it can be
    return Curves(mean=mean, variance=variance, count=count)
