"""Pools of little Gaussian fields (tests/fields.py), written as grey pictures."""

from pathlib import Path

from fields import Fields
from PIL import Image

FIELDS = Fields(resolution=8, sigma_data=0.25)  # little is clipped


def write_fields(folder: Path, name: str, num: int, *, blur: float = 0.0, seed: int, first: int = 0) -> None:
    """num PNG files of blurred fields, called after a name and numbers from first on."""
    folder.mkdir(parents=True, exist_ok=True)
    levels = (FIELDS.draw(num, blur=blur, seed=seed)[:, 0].clamp(-1, 1) * 127.5 + 127.5).round().byte().numpy()
    for i, pixels in enumerate(levels):
        Image.fromarray(pixels).save(folder / f"{name}-{first + i:03d}.png")
