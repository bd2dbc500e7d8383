"""CLIP-IQA: how much nearer a picture is to "Good photo." than to "Bad photo.", by any model of open_clip.

Wang, Chan and Loy, "Exploring CLIP for assessing the look and feel of images", AAAI 2023 (arXiv 2207.12396).
"""

import re
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schemas.errors import UserError
from .images import U8
from .openclip import ClipConfig, load, shown_as, tokenizer
from .scorers import Scorer

PATCHES = (32, 64, 128, 256, 512)
NAMES = ("clipiqa", *(f"clipiqa_{side}" for side in PATCHES))
MODEL = "RN50"
"""The published measure's network, with OpenAI's weights."""

_LARGEST = 512  # side that a network which takes any size is shown
_SMALLEST = 32  # and the least: its features are 32 times coarser
_PATCHES_PER_SIDE = 8  # at most; evenly spread


def prompts_of(text: str) -> tuple[str, str]:
    """The prompts of ``good|bad``."""
    good, bar, bad = text.partition("|")
    if not bar or not good.strip() or not bad.strip():
        raise UserError(
            f"--prompts are two, the good one and the bad one, such as 'Good photo.|Bad photo.', not {text!r}"
        )
    return good, bad


def scorers(names: list[str], config: ClipConfig, device: torch.device) -> list[Scorer]:
    """Scorers of names among NAMES, which share one network.

    Higher is better, in [0, 1]. ``clipiqa`` sees the largest centred square; ``clipiqa_N`` is the mean over patches
    of N x N pixels at native size, at most 8 x 8 of them, and unknown where a side is shorter than N.
    """
    network = _Network(config, device)
    out = []
    for name in names:
        found = re.fullmatch(r"clipiqa(?:_(\d+))?", name)
        patch = int(found[1]) if found and found[1] else None
        out.append(Scorer(name=name, cut=_cutter(network.shown, patch), measure=network))
    return out


class _Network:
    """Pictures (N, 3, H, W) uint8 -> (N,) probability of the good prompt."""

    def __init__(self, config: ClipConfig, device: torch.device) -> None:
        self.device, name = device, config.model or MODEL
        self.model, _ = load("clipiqa", name, config, device)
        visual = self.model.visual
        any_size = hasattr(visual, "attnpool")
        if any_size:
            # As published: without positions, the network takes a picture of any size. One row of zeros is broadcast.
            width = visual.attnpool.positional_embedding.shape[1]
            visual.attnpool.positional_embedding = torch.nn.Parameter(torch.zeros(1, width, device=device))
        side, *colours = shown_as(self.model)
        self.shown = _any_size if any_size else (lambda _: side)
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in colours)
        tokens = tokenizer(name)(list(config.prompts)).to(device)
        with torch.inference_mode():
            self.text = self.model.encode_text(tokens, normalize=True).float()

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        x = (pixels.to(self.device).float() / 255 - self.mean) / self.std
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            image: Tensor = self.model.encode_image(x, normalize=True)
        logits: Tensor = self.model.logit_scale.exp().float() * image.float() @ self.text.T
        return logits.softmax(dim=-1)[:, 0]


def _any_size(length: int) -> int:
    return min(max(length, _SMALLEST), _LARGEST)


def _cutter(shown: Callable[[int], int], patch: int | None) -> Callable[[U8], list[U8]]:
    """From a picture to the squares that the network is shown; shown: side of a square -> side shown."""

    def square(pixels: U8) -> U8:
        side = shown(len(pixels))
        if side == len(pixels):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))

    def cut(pixels: U8) -> list[U8]:
        height, width = pixels.shape[:2]
        side = min(height, width) if patch is None else patch
        if side > min(height, width):
            return []
        count = 1 if patch is None else _PATCHES_PER_SIDE
        squares = [
            pixels[top : top + side, left : left + side]
            for top in _spread(height, side, count)
            for left in _spread(width, side, count)
        ]
        return [square(np.ascontiguousarray(pixels)) for pixels in squares]

    return cut


def _spread(length: int, side: int, most: int) -> list[int]:
    """Where at most so many pieces that do not overlap begin along a side, in the middle of equal parts of it."""
    count = min(most, length // side)
    part = length / count
    return [int(part * (i + 0.5) - side / 2) for i in range(count)]
