"""p_clean(sigma) = E_z[c(w_0 + sigma z, sigma)] of pictures on a grid of levels (arXiv 2506.10038, section 3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..schemas.manifest import Crossing
from .noise import Purpose, normals
from .opposed import Rings, opposed, rings
from .threshold import Array, Index, isotonic_crossing

Classifier = Callable[..., Tensor]
"""(x (N, C, H, W) float, sigma (N,)) -> (N,) logits of "clean"; group (N,) int64 comes third where there are groups."""

_PAIR_BITS = 14  # a stream's index is level * 2^14 + pair of draws
_GPU_VALUES = 1 << 26  # of noisy pictures at a time
_WINDOWS = (8, 4)  # levels around the crossing that get further draws, round by round
_NOISE = 0.02  # variance of a draw as a share of p (1 - p), where it has to be guessed


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """mean: (N, L) estimates of p_clean; count: (N, L) draws behind each; variance: (N, L) of one draw, such that that
    of the mean is variance / count, NaN where fewer than two pairs of draws tell."""

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
    groups: Tensor | None = None,
    levels: Tensor | None = None,
    draws: int,
    first: int = 0,
    seed: int = 0,
    batch: int | None = None,
    compiled: bool = False,
) -> Tensor:
    """Probability of "clean" for every picture, noise level and draw.

    Each (picture, level, pair of draws) has noise of its own, keyed by the picture's name: independent across levels,
    and the same whatever the batch. The second draw of a pair, the odd one, errs against the first
    (curate/opposed.py).

    pictures: (N, C, H, W) float in [-1, 1]; names: (N,) int64 from ``names_of``; grid: (L,) noise levels.
    groups: (N,) int64, what the classifier is told, if anything. levels: (N, K) int64 indices into the grid, all levels
    when left out. draws: how many, numbered from `first`, which is even.
    batch: network evaluations at a time; when left out, what suits the device. compiled: by ``torch.compile``, which
    takes half a minute and then does a batch in a third of the time on a GPU, in half on a CPU.
    Returns (N, K, draws) float32 in (0, 1), on the pictures' device.
    """
    every = torch.arange(len(grid), device=pictures.device).expand(len(pictures), -1)
    levels, pairs = every if levels is None else levels, -(-draws // 2)
    out = torch.empty(*levels.shape, pairs, 2, device=pictures.device)
    tasks = _tasks_by_level if pictures.device.type == "cpu" and not compiled else _tasks_in_full_batches
    evaluate = _compiled(pictures.device.type) if compiled else _evaluate
    frequencies = rings(pictures.shape[1], pictures.shape[2], pictures.device)
    for row, column, pair in tasks(levels, pairs, max(1, (batch or _batch(pictures)) // 2)):
        level = levels[row, column]
        # Where a batch has one level, stride 0 tells the classifier so.
        sigma = grid[level[0]].expand(len(row)) if tasks is _tasks_by_level else grid[level]
        told = None if groups is None else groups[row]
        stream = (level << _PAIR_BITS) + pair + first // 2
        out[row, column, pair] = evaluate(classifier, pictures[row], names[row], stream, sigma, told, seed, frequencies)
    return out.flatten(2)[:, :, :draws]


Task = tuple[Tensor, Tensor, Tensor]
"""Which pairs of draws a batch makes: three (n,) int64 of picture, column of its levels, and pair."""


def _tasks_by_level(levels: Tensor, pairs: int, size: int) -> Iterator[Task]:
    """All pairs, at most `size` at a time, each batch of one level: what depends on it alone is computed once."""
    pair = torch.arange(pairs, device=levels.device)
    for level in torch.unique(levels):
        row, column = (levels == level).nonzero(as_tuple=True)
        step = max(1, size // pairs)
        for some, at in zip(torch.split(row, step), torch.split(column, step), strict=True):
            yield some.repeat_interleave(pairs), at.repeat_interleave(pairs), pair.repeat(len(some))


def _tasks_in_full_batches(levels: Tensor, pairs: int, size: int) -> Iterator[Task]:
    """All pairs, `size` at a time; the last batch is filled up with its last pair, so that all have one shape."""
    columns, total = levels.shape[1], levels.numel() * pairs
    for start in range(0, total, size):
        task = torch.arange(start, start + size, device=levels.device).clamp_(max=total - 1)
        yield task // pairs // columns, task // pairs % columns, task % pairs


def _evaluate(
    classifier: Classifier,
    x0: Tensor,
    names: Tensor,
    stream: Tensor,
    sigma: Tensor,
    told: Tensor | None,
    seed: int,
    frequencies: Rings,
) -> Tensor:
    """p_clean of a picture under a pair of noises: (n, C, H, W) and four (n,) to (n, 2) float32."""
    white = normals(names, x0[0].numel(), seed=seed, purpose=Purpose.CURVE, index=stream).view(x0.shape)
    x = torch.addcmul(x0[:, None], opposed(white, frequencies), sigma[:, None, None, None, None]).flatten(0, 1)
    both = sigma[:1].expand(len(x)) if sigma.stride(0) == 0 else sigma.repeat_interleave(2)
    logits = classifier(x, both) if told is None else classifier(x, both, told.repeat_interleave(2))
    return torch.sigmoid(logits.float()).view(-1, 2)


@cache
def _compiled(device: str) -> Callable[..., Tensor]:
    if device == "cpu":  # here, not in a process of its own, which needs 450 MiB: there are few kernels
        return torch.compile(_evaluate, dynamic=False, options={"compile_threads": 1})
    return torch.compile(_evaluate, dynamic=False)


def _batch(pictures: Tensor) -> int:
    """Network evaluations at a time: on a CPU what stays in its cache, on a GPU what fills it."""
    return 256 if pictures.device.type == "cpu" else max(256, _GPU_VALUES // pictures[0].numel())


def search(
    classifier: Classifier,
    pictures: Tensor,
    names: Tensor,
    grid: Array,
    *,
    groups: Tensor | None = None,
    draws: int,
    tau: float,
    how: Crossing = "rising",
    seed: int = 0,
    compiled: bool = False,
) -> Curves:
    """Curves with most of the draws where they decide: near each picture's own crossing of tau.

    A quarter of the budget, at least 2 draws, goes to every level; half of the rest to the 8 levels around the
    crossing found so far, the other half to the 4 around the crossing then found.
    draws: mean number per level, so that the cost is L * draws evaluations per picture. how: which crossing, where
    there are several; the first may lie at any of some places, so its levels need not be neighbours.
    Other arguments as ``p_clean``.
    """
    num, size = len(pictures), len(grid)
    device_grid = torch.tensor(grid, dtype=torch.float32, device=pictures.device)
    total, squares, count, pairs = (np.zeros((num, size)) for _ in range(4))

    def add(levels: Tensor | None, draws: int, first: int) -> None:
        found = p_clean(
            classifier,
            pictures,
            names,
            device_grid,
            groups=groups,
            levels=levels,
            draws=draws,
            first=first,
            seed=seed,
            compiled=compiled,
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
            if how == "rising":
                levels = _around(isotonic_crossing(total / count, grid, tau, count), grid, window)
            else:
                levels = _likely_first(total / count, count, tau, window)
            add(torch.tensor(levels, device=pictures.device), extra, first)
            first, left = first + extra, left - extra * window
    mean = total / count
    of_pairs = np.maximum(squares - pairs * mean**2, 0.0) / np.maximum(pairs - 1, 1)
    return Curves(mean=mean, count=count, variance=np.where(pairs > 1, 2 * of_pairs, np.nan))


def _around(sigma: Array, grid: Array, num: int) -> Index:
    """(N, num) neighbouring levels around noise levels (N,), 0 and inf among them."""
    start = np.clip(np.searchsorted(grid, sigma) - num // 2, 0, len(grid) - num)
    found: Index = start[:, None] + np.arange(num)
    return found


def _likely_first(mean: Array, count: Array, tau: float, num: int) -> Index:
    """(N, num) levels that are most likely the first above tau, or the last before it."""
    error = np.sqrt(_NOISE * np.clip(mean * (1 - mean), 0.01, None) / count)
    above = torch.special.ndtr(torch.from_numpy((mean - tau) / error)).numpy()
    none_before = np.cumprod(np.pad(1 - above, ((0, 0), (1, 0)), constant_values=1.0), axis=1)
    first = np.concatenate([above * none_before[:, :-1], none_before[:, -1:]], axis=1)  # the last: at no level
    ends = first[:, :-1] + first[:, 1:]
    found: Index = np.sort(np.argsort(-ends, axis=1, kind="stable")[:, :num], axis=1)
    return found
