"""CLIP-IQA: how much nearer a picture is to "Good photo." than to "Bad photo.", by any model of open_clip.

Wang, Chan and Loy, "Exploring CLIP for assessing the look and feel of images", AAAI 2023 (arXiv 2207.12396).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schemas.errors import UserError
from .images import U8
from .scorers import Scorer
from .weights import given, missing, quiet, reachable

PATCHES = (32, 64, 128, 256, 512)
NAMES = ("clipiqa", *(f"clipiqa_{side}" for side in PATCHES))

_LARGEST = 512  # side that a network which takes any size is shown
_SMALLEST = 32  # and the least: its features are 32 times coarser
_PATCHES_PER_SIDE = 8  # at most; evenly spread


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Model and pretrained tag as open_clip names them; prompts: the good one, then the bad one.

    The default is the published measure's network; ``weights``: a local copy.
    """

    model: str = "RN50"
    pretrained: str = "openai"
    prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    weights: str | None = None


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
        import open_clip

        self.device = device
        self.model = _load(config).to(device).eval()
        visual = self.model.visual
        any_size = hasattr(visual, "attnpool")
        if any_size:
            # As published: without positions, the network takes a picture of any size. One row of zeros is broadcast.
            width = visual.attnpool.positional_embedding.shape[1]
            visual.attnpool.positional_embedding = torch.nn.Parameter(torch.zeros(1, width, device=device))
        cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(self.model)
        side = cfg["size"] if isinstance(cfg["size"], int) else cfg["size"][0]
        self.shown = _any_size if any_size else (lambda _: int(side))
        self.mean, self.std = (torch.tensor(cfg[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
        tokens = open_clip.get_tokenizer(config.model)(list(config.prompts)).to(device)
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


def _load(config: ClipConfig) -> Any:
    """The model with its weights. Raises UserError where they cannot be had."""
    import open_clip

    try:
        with quiet():
            bare = open_clip.create_model(config.model, pretrained=None, load_weights=False)
    except (RuntimeError, FileNotFoundError, ValueError) as error:
        raise UserError(f"open_clip has no model {config.model!r}: open_clip.list_models() names them") from error
    file = given("clipiqa", config.weights) if config.weights else _cached(config, bare)
    try:
        with quiet():
            return open_clip.create_model(config.model, pretrained=file)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} holds no weights of open_clip's {config.model} ({reason})") from error


def _cached(config: ClipConfig, bare: torch.nn.Module) -> str:
    """The tag's file of weights from open_clip's cache, fetched if that is possible."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    source = get_pretrained_cfg(config.model, config.pretrained)
    if not source:
        tags = ", ".join(list_pretrained_tags_by_model(config.model)) or "none"
        raise UserError(f"open_clip has no weights {config.pretrained!r} of {config.model}: there are {tags}")
    hub, url = source.get("hf_hub", ""), source.get("url", "")
    if hub:
        repository, _, name = hub.rpartition("/")
        file = _in_hub_cache(repository, name)
        if file:
            return file
        from huggingface_hub import constants

        host, place = constants.ENDPOINT, f"{constants.HF_HUB_CACHE} (as huggingface_hub keeps {repository})"
        wanted = f"{repository}/{name or 'open_clip_model.safetensors'}"
    else:
        host, place, wanted = url, "~/.cache/clip", url.rpartition("/")[2]
    if not reachable(host):
        num_bytes = sum(p.numel() for p in bare.parameters()) * 4
        raise missing("clipiqa", wanted, place, num_bytes, host.split("/")[2] if "//" in host else host)
    with quiet():
        return str(download_pretrained(source))


def _in_hub_cache(repository: str, name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    for candidate in (name,) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        found = try_to_load_from_cache(repository, candidate)
        if isinstance(found, str):
            return found
    return None
