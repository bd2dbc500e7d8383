"""p_clean(sigma) = E_z[c(w_0 + sigma z, sigma)] of pictures on a grid of levels (arXiv 2506.10038, section 3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .noise import Purpose, normals
from .threshold import Array, crossing, isotonic

Classifier = Callable[..., Tensor]
"""(x (N, C, H, W) float, sigma (N,)) -> (N,) logits of "clean"; group (N,) int64 comes third where there are groups."""

_PAIR_BITS = 14  # a stream's index is level * 2^14 + pair of draws
_GPU_VALUES = 1 << 26  # of noisy pictures at a time
_WINDOWS = (16, 8)  # levels around the crossing that get further draws, round by round


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """mean: (N, L) estimates of p_clean; count: (N, L) draws behind each; variance: (N, L) of one draw, such that that
    of the mean is variance / count, NaN where fewer than two pairs of draws tell."""

    mean: Array
    variance: Array
    count: Array


def _by_level(levels: Tensor | None, num: int, size: int, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each level that is wanted, the pictures that want it, and the column where: what depends on the level alone is
    computed once for all of them."""
    every = torch.arange(num, device=device)
    for level in range(size):
        if levels is None:
            rows, columns = every, torch.full_like(every, level)
        else:
            rows, columns = (levels == level).nonzero(as_tuple=True)
        if len(rows):
            yield level, rows, columns


def _batch(pictures: Tensor) -> int:
    """Network evaluations at a time: on a CPU what stays in its cache, on a GPU what fills it."""
    return 256 if pictures.device.type == "cpu" else max(256, _GPU_VALUES // pictures[0].numel())


@torch.inference_mode()
def p_clean(
    classifier: Classifier,
    pictures: Tensor,
    names: Tensor,
    grid: Tensor,
    *,
    groups: Tensor | None = None,
    levels: Tensor | None = None,
    draws: int,
    first: int = 0,
    seed: int = 0,
    batch: int | None = None,
) -> Tensor:
    """Probability of "clean" for every picture, noise level and draw.

    Each (picture, level, pair of draws) has noise of its own, keyed by the picture's name: independent across levels,
    and the same whatever the batch. The second draw of a pair, the odd one, has the first one's noise with the other
    sign: half the random numbers, and the terms linear in the noise cancel.

    pictures: (N, C, H, W) float in [-1, 1]; names: (N,) int64 from ``names_of``; grid: (L,) noise levels.
    groups: (N,) int64, what the classifier is told, if anything. levels: (N, K) int64 indices into the grid, all levels
    when left out. draws: how many, numbered from `first`, which is even.
    batch: network evaluations at a time; when left out, what suits the device.
    Returns (N, K, draws) float32 in (0, 1), on the pictures' device.
    """
    num, device = len(pictures), pictures.device
    out = torch.empty(num, len(grid) if levels is None else levels.shape[1], draws, device=device)
    step, pairs = max(1, (batch or _batch(pictures)) // draws), -(-draws // 2)
    pair = torch.arange(first // 2, first // 2 + pairs, device=device)
    for level, rows, columns in _by_level(levels, num, len(grid), device):
        for some, at in zip(torch.split(rows, step), torch.split(columns, step), strict=True):
            x0, keys = pictures[some, None, None], names[some].repeat_interleave(pairs)
            told = () if groups is None else (groups[some].repeat_interleave(draws),)
            index = ((level << _PAIR_BITS) + pair).repeat(len(some))
            z = normals(keys, x0[0].numel(), seed=seed, purpose=Purpose.CURVE, index=index)
            noise = z.view(len(x0), pairs, 1, *pictures.shape[1:]) * grid[level]
            signed = noise.new_empty(len(x0), pairs, 2, *pictures.shape[1:])
            torch.add(x0, noise, out=signed[:, :, :1])
            torch.sub(x0, noise, out=signed[:, :, 1:])
            x = signed.flatten(1, 2)[:, :draws].flatten(0, 1)
            sigma = grid[level].expand(len(x))  # one level for all keeps stride 0, which tells the classifier so
            out[some, at] = torch.sigmoid(classifier(x, sigma, *told).float()).view(len(x0), draws)
    return out


def search(
    classifier: Classifier,
    pictures: Tensor,
    names: Tensor,
    grid: Array,
    *,
    groups: Tensor | None = None,
    draws: int,
    tau: float,
    seed: int = 0,
) -> Curves:
    """Curves with most of the draws where they decide: near each picture's own crossing of tau.

    A quarter of the budget, at least 2 draws, goes to every level; half of the rest to the 16 levels around the
    crossing found so far, the other half to the 8 around the crossing then found.
    draws: mean number per level, so that the cost is L * draws evaluations per picture. Arguments as ``p_clean``.
    """
    num, size = len(pictures), len(grid)
    device_grid = torch.tensor(grid, dtype=torch.float32, device=pictures.device)
    total, squares, count, pairs = (np.zeros((num, size)) for _ in range(4))

    def add(levels: Tensor | None, draws: int, first: int) -> None:
        found = p_clean(
            classifier, pictures, names, device_grid, groups=groups, levels=levels, draws=draws, first=first, seed=seed
        )
        values = found.double().cpu().numpy()
        at = np.arange(size)[None] if levels is None else levels.cpu().numpy()
        rows = np.arange(num)[:, None]
        total[rows, at] += values.sum(axis=2)
        count[rows, at] += draws
        if draws > 1:
            squares[rows, at] += (values.reshape(*values.shape[:2], draws // 2, 2).mean(axis=3) ** 2).sum(axis=2)
            pairs[rows, at] += draws // 2

    first = min(draws, max(2, draws // 4 // 2 * 2))
    add(None, first, 0)
    left = size * (draws - first)
    for round_, window in enumerate(_WINDOWS):
        extra = left // (len(_WINDOWS) - round_) // window // 2 * 2
        if extra and num:
            sigma = crossing(isotonic(total / count, count), grid, tau)
            centre = np.searchsorted(grid, sigma)  # 0 for 0, the number of levels for inf
            start = np.clip(centre - window // 2, 0, size - window)
            levels = torch.tensor(start[:, None] + np.arange(window), device=pictures.device)
            add(levels, extra, first)
            first, left = first + extra, left - extra * window
    mean = total / count
    of_pairs = np.maximum(squares - pairs * mean**2, 0.0) / np.maximum(pairs - 1, 1)
    return Curves(mean=mean, count=count, variance=np.where(pairs > 1, 2 * of_pairs, np.nan))
