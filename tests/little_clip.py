"""Little networks of open_clip with random weights, made on the spot: a ResNet for any size and a ViT of 32 x 32."""

import json
from pathlib import Path

import open_clip
import torch
from ambient.curate.openclip import ClipConfig

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "little-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "little-vit": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
}


def write_little_clips(folder: Path) -> dict[str, ClipConfig]:
    """Model -> configuration with weights, both in this folder as NAME.json and NAME.pt; open_clip knows the models."""
    out = {}
    for name, vision in VISION.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(0)
        torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
        out[name] = ClipConfig(model=name, weights=str(folder / f"{name}.pt"))
    return out
