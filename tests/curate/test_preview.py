"""The contact sheet: the right pictures in the right places."""

from pathlib import Path

import numpy as np
from ambient.curate.preview import write_preview
from manifests import rows
from PIL import Image


def test_best_border_and_worst_are_where_they_should_be(tmp_path: Path) -> None:
    """Picture i is grey 2 i and has rank i / 100; the top 20 are chosen; 7 is gone, 3 was never usable."""
    for i in range(100):
        Image.new("RGB", (8, 8), (2 * i + 20,) * 3).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").unlink()
    rank = np.arange(100) / 100
    rank[3] = 0
    records = rows(100, uri=[f"{i}.png" for i in range(100)])
    sheet = tmp_path / "sheet.png"
    write_preview(sheet, records, rank >= 0.8, rank, {"pool": str(tmp_path)}, workers=2)
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4 * (26 + 2 * 134) + 6, 8 * 134 + 6, 3)
    shown = [
        [pixels[part * 294 + 26 + row * 134 + 64, 6 + column * 134 + 64] for row in range(2) for column in range(8)]
        for part in range(4)
    ]
    expected = [range(99, 83, -1), range(95, 79, -1), range(79, 63, -1), [i for i in range(17, 0, -1) if i != 3]]
    for found, places in zip(shown, expected, strict=True):
        for pixel, i in zip(found, places, strict=True):
            assert pixel.tolist() == ([90, 30, 30] if i == 7 else [2 * i + 20] * 3), i


def test_fewer_pictures_than_places(tmp_path: Path) -> None:
    Image.new("RGB", (300, 20)).save(tmp_path / "a.png")
    records = rows(1, uri="a.png")
    write_preview(tmp_path / "s.png", records, np.array([True]), np.ones(1), {"pool": str(tmp_path)}, workers=0)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (1078, 1182)
