"""Embeddings of pictures by any model of open_clip, and how well captions fit their pictures.

Hessel, Holtzman, Forbes, Le Bras and Choi, "CLIPScore: a reference-free evaluation metric for image captioning",
EMNLP 2021 (arXiv 2104.08718).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .images import U8
from .openclip import ClipConfig, load, tokenizer
from .scorers import Scorer

NAMES = ("clipscore", "clip_embedding")
MODEL = "ViT-B-32"
"""The published score's network, with OpenAI's weights."""

_PREFIX = "A photo depicts "
_FACTOR = 2.5
_CAPTIONS = 256  # read at a time


class Embedder:
    """A network that turns pictures, and captions, into unit vectors of `size` numbers."""

    def __init__(self, config: ClipConfig, device: torch.device, measure: str = NAMES[0]) -> None:
        """measure: what an error says needs the weights. Raises UserError where they cannot be had."""
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        name = config.model or MODEL
        self.device, (self.model, _) = device, load(measure, name, config, device)
        cfg = PreprocessCfg(**open_clip.get_model_preprocess_cfg(self.model))
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (cfg.mean, cfg.std))
        cfg.mean, cfg.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self._shown = image_transform_v2(cfg, is_train=False)
        self._tokens = tokenizer(name)
        self.size = self._captions(["a picture"]).shape[1]

    def scorer(self) -> Scorer:
        return Scorer(name="clip_embedding", cut=self.cut, measure=self, shape=(self.size,))

    def cut(self, pixels: U8) -> list[U8]:
        """The picture as the network is shown it, resized and cut as open_clip does. (H, W, 3) uint8 -> the same."""
        shown: Tensor = self._shown(Image.fromarray(pixels))
        return [(shown * 255).round().byte().permute(1, 2, 0).contiguous().numpy()]

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) uint8 -> (N, size) float32 unit vectors."""
        x = (pixels.to(self.device).float() / 255 - self.mean) / self.std
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            embedded: Tensor = self.model.encode_image(x)
        return torch.nn.functional.normalize(embedded.float(), dim=-1)

    def scores(self, embeddings: NDArray[np.float64], captions: list[str | None]) -> NDArray[np.float64]:
        """(N,) 2.5 max(cos, 0) of pictures and captions, in [0, 2.5] (section 3); NaN where either is missing.

        embeddings: (N, size). As published, a caption is read as "A photo depicts" and its words.
        """
        out = np.full(len(captions), np.nan)
        known = [row for row, caption in enumerate(captions) if caption and caption.strip()]
        for start in range(0, len(known), _CAPTIONS):
            rows = known[start : start + _CAPTIONS]
            words = self._captions([f"{_PREFIX}{captions[row]}" for row in rows]).double().cpu().numpy()
            out[rows] = _FACTOR * np.maximum((embeddings[rows] * words).sum(axis=1), 0)
        return out

    @torch.inference_mode()
    def _captions(self, texts: list[str]) -> Tensor:
        tokens = self._tokens(texts).to(self.device)
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            embedded: Tensor = self.model.encode_text(tokens)
        return torch.nn.functional.normalize(embedded.float(), dim=-1)
