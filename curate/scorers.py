"""Measures by networks: pieces of pictures, batched by shape, whatever their order and however one of them fails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .images import U8

_BATCH_PIXELS = {"cpu": 2**21, "cuda": 2**25}  # of one shape, measured at a time
_WAITING_PIXELS = 2**26  # of all shapes, before the largest batch goes as it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """One measure by a network.

    cut: (H, W, 3) uint8 -> the pieces to measure, whose mean is the score; none: no score. measure: (N, 3, h, w) uint8
    -> (N, *shape), any device. shape: of one score, () for a number.
    """

    name: str
    cut: Callable[[U8], list[U8]]
    measure: Callable[[Tensor], Tensor]
    shape: tuple[int, ...] = ()


def measure_all(
    pieces: Iterable[tuple[int, dict[str, list[U8]]]], networks: list[Scorer], num: int, device: torch.device
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Scorer -> (num, *shape) mean over each picture's pieces; NaN where there are none, or where measuring one failed.

    Also scorer -> what it said when it failed for the first time. Pieces of one shape wait until they fill a batch, or
    until those of all shapes take too much memory.
    """
    by_name = {scorer.name: scorer for scorer in networks}
    sums = {scorer.name: np.zeros((num, *scorer.shape)) for scorer in networks}
    counts = {scorer.name: np.zeros((num, *(1 for _ in scorer.shape)), dtype=np.int64) for scorer in networks}
    waiting: dict[tuple[str, tuple[int, ...]], list[tuple[int, U8]]] = {}
    problems: dict[str, str] = {}
    most = _BATCH_PIXELS[device.type if device.type in _BATCH_PIXELS else "cpu"]

    def flush(key: tuple[str, tuple[int, ...]]) -> None:
        batch, name = waiting.pop(key), key[0]
        rows = np.array([row for row, _ in batch])
        measured, problem = _measured(by_name[name], [piece for _, piece in batch])
        np.add.at(sums[name], rows, measured)
        np.add.at(counts[name], rows, 1)
        if problem is not None:
            problems.setdefault(name, problem)

    for row, cuts in pieces:
        for name, squares in cuts.items():
            for square in squares:
                key = (name, square.shape)
                waiting.setdefault(key, []).append((row, square))
                if len(waiting[key]) * square.shape[0] * square.shape[1] >= most:
                    flush(key)
        while sum(_pixels(key, len(batch)) for key, batch in waiting.items()) > _WAITING_PIXELS:
            flush(max(waiting, key=lambda key: _pixels(key, len(waiting[key]))))
    for key in list(waiting):
        flush(key)
    means = {name: np.where(counts[name] > 0, sums[name] / np.maximum(counts[name], 1), np.nan) for name in sums}
    return means, problems


def _pixels(key: tuple[str, tuple[int, ...]], count: int) -> int:
    return key[1][0] * key[1][1] * count


def _measured(scorer: Scorer, pieces: list[U8]) -> tuple[NDArray[np.float64], str | None]:
    """(N, *shape) values, and what went wrong.

    A batch that fails is halved until only the piece that makes it fail is left, which is NaN.
    """
    try:
        batch = torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2)
        values: NDArray[np.float64] = scorer.measure(batch).detach().double().cpu().numpy()
        if values.shape != (len(pieces), *scorer.shape):
            raise ValueError(f"{values.shape} values of {len(pieces)} pictures")
    except Exception as error:  # noqa: BLE001 (networks fail in any way on what is too small, too flat or too large)
        if len(pieces) == 1:
            return np.full((1, *scorer.shape), np.nan), " ".join(f"{type(error).__name__}: {error}".split())[:200]
    else:
        return values, None
    half = len(pieces) // 2
    first, problem = _measured(scorer, pieces[:half])
    second, other = _measured(scorer, pieces[half:])
    return np.concatenate([first, second]), problem or other
