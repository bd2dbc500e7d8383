"""p_clean(sigma) = E_z[c(w_0 + sigma z, sigma)] of pictures on a grid of levels (arXiv 2506.10038, section 3)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .noise import Purpose, normals

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x (N, C, H, W) float, sigma (N,)) -> (N,) logits of "clean"."""

_DRAW_BITS = 14  # a stream's index is level * 2^14 + draw


@torch.inference_mode()
def p_clean(
    classifier: Classifier, pictures: Tensor, names: Tensor, grid: Tensor, *, draws: int, seed: int, batch: int = 1024
) -> Tensor:
    """Probability of "clean" for every picture, noise level and draw.

    Each (picture, level, draw) has noise of its own, keyed by the picture's name: independent across levels, and the
    same whatever the batch.

    pictures: (N, C, H, W) float in [-1, 1]; names: (N,) int64 from ``names_of``; grid: (L,) noise levels.
    batch: network evaluations at a time. Returns (N, L, draws) float32 in [0, 1], on the pictures' device.
    """
    n = len(pictures)
    out = torch.empty(n, len(grid), draws, device=pictures.device)
    if n == 0:
        return out
    step = max(1, batch // draws)
    draw = torch.arange(draws, device=pictures.device)
    for start in range(0, n, step):
        x0, keys = pictures[start : start + step], names[start : start + step]
        size = pictures[0].numel()
        for level in range(len(grid)):
            index = (draw + (level << _DRAW_BITS)).repeat(len(x0))
            z = normals(keys.repeat_interleave(draws), size, seed=seed, purpose=Purpose.CURVE, index=index)
            x = x0.repeat_interleave(draws, dim=0) + grid[level] * z.view(-1, *x0.shape[1:])
            logits = classifier(x, grid[level].expand(len(x)))
            out[start : start + step, level] = torch.sigmoid(logits.float()).view(len(x0), draws)
    return out
