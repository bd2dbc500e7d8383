"""What hardly any noise hides, through the whole annotation: a colour cast and a border of photographs."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage.data
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.reporter import Reporter
from PIL import Image, ImageFilter, ImageOps

SIDE = 32


def crops(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "coffee", "chelsea")]
    found = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        left, top = (int(random.integers(length - SIDE)) for length in photograph.size)
        found.append(photograph.crop((left, top, left + SIDE, top + SIDE)))
    return found


def cast(picture: Image.Image) -> Image.Image:
    shifted = np.asarray(picture).astype(int) + np.array([110, 0, -110])
    return Image.fromarray(shifted.clip(0, 255).astype(np.uint8))


def border(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(picture.resize((SIDE * 5 // 8, SIDE * 5 // 8)), SIDE * 3 // 16, "white")


def blur(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(2))


def test_a_cast_and_a_border_are_trusted_above_heavy_noise_only_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not inf: at this size less noise than 80 hides them."""
    damages, pictures = {"cast": cast, "border": border, "blur": blur}, iter(crops(240))
    for source, count in {"clean": 120, **dict.fromkeys(damages, 40)}.items():
        (tmp_path / "pool" / source).mkdir(parents=True)
        for number in range(count):
            picture = damages.get(source, lambda clean: clean)(next(pictures))
            picture.save(tmp_path / "pool" / source / f"{number:03d}.png")
    config = AnnotateConfig(clean=tmp_path / "pool" / "clean", steps=80, draws=2)
    out = annotate(tmp_path / "pool", tmp_path / "m.parquet", config, device="cpu", workers=2, reporter=Reporter())
    rows = pq.read_table(out, columns=["source", "status", "sigma_min"]).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    found = {source: np.array([row["sigma_min"] for row in rows if row["source"] == source]) for source in damages}
    medians = {source: np.quantile(values, 0.5, method="inverted_cdf") for source, values in found.items()}
    assert min(medians["cast"], medians["border"]) > 10, medians
    assert medians["blur"] < 3, medians
    said = next(line for line in capsys.readouterr().err.splitlines() if "only above sigma 10" in line)
    for source in ("cast", "border"):
        count = ((found[source] > 10) & np.isfinite(found[source])).sum()
        assert count >= 20 and f"{count} in {source}" in said, said
