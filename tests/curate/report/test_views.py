"""What the page shows of a picture is what the trainer sees of it."""

import base64
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate.images import load
from ambient.curate.noise import names_of
from ambient.curate.report.views import MAX_SIDE, encode, most_similar, noised, pictures, thumb
from ambient.curate.units import to_unit
from ambient.schemas.manifest import read_metadata
from ambient.schemas.space import Space
from ambient.train.target import fixed_noise
from hostile_pool import write_hostile_pool
from PIL import Image
from small_pool import write_pool


def decoded(uri: str) -> np.ndarray:
    """(H, W, C) uint8 of a data URI."""
    head, _, data = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    return pixels.reshape(*pixels.shape[:2], -1)


def chw(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_pool(tmp_path_factory.mktemp("hostile"))


def shown(manifest: Path, uris: list[str], references: list[str], roots: dict[str, str] | None = None) -> list[dict]:
    metadata = read_metadata(manifest)
    return pictures(uris, set(uris), references, manifest, metadata, roots or metadata.roots)


def test_noisy_views_are_what_the_trainer_sees(manifest: Path) -> None:
    """x_n = w_0 + sigma_min z with the trainer's own z, at the contrast of c_in x."""
    table = pq.read_table(manifest).to_pylist()
    clean = [row["uri"] for row in table if row["role"] == "clean" and row["status"] == "ok"]
    mine = [row for row in table if row["role"] == "pool" and row["status"] == "ok" and 0 < row["sigma_min"] < math.inf]
    metadata = read_metadata(manifest)
    found = shown(manifest, [row["uri"] for row in mine], clean)
    for picture, row in zip(found, mine, strict=True):
        z = fixed_noise(names_of([row["id"]]), metadata.space.shape, seed=0)[0]
        scale = 0.5 / math.sqrt(row["sigma_min"] ** 2 + 0.25)
        for view, uri in (("noisy", row["uri"]), ("clean", picture["clean_uri"])):
            w0 = to_unit(torch.from_numpy(load(uri, metadata.space, metadata.roots)))
            x_n = (w0 + row["sigma_min"] * z) * scale
            expected = ((x_n.clamp(-1, 1) + 1) * 127.5).numpy()
            assert np.abs(chw(decoded(picture[view])) - expected).max() <= 0.51
        assert picture["clean_uri"] in clean
        assert picture["problem"] is None
        np.testing.assert_array_equal(chw(decoded(picture["image"])), load(row["uri"], metadata.space, metadata.roots))


def test_rows_and_curves(manifest: Path) -> None:
    row = pq.read_table(manifest).slice(7, 1).to_pylist()[0]
    (picture,) = shown(manifest, [row["uri"]], [])
    assert picture["curve"] == row["p_clean"]
    assert np.all(np.diff(picture["fit"]) >= 0)
    assert picture["row"] == {name: value for name, value in row.items() if name not in ("p_clean", "draws")}
    assert "clean" not in picture


def test_sigma_zero_changes_nothing() -> None:
    space = Space(resolution=16)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    np.testing.assert_array_equal(noised(pixels, "0" * 32, 0.0, space), pixels)


def test_missing_and_changed_pictures_have_a_problem_and_no_image(manifest: Path, tmp_path: Path) -> None:
    shutil.copytree(manifest.parent / "pool", tmp_path / "pool")
    uris = pq.read_table(manifest, columns=["uri"])["uri"].to_pylist()[15:18]
    (tmp_path / "pool" / uris[0]).unlink()
    (tmp_path / "pool" / uris[1]).write_bytes((tmp_path / "pool" / uris[2]).read_bytes())
    found = shown(manifest, uris, [], {"pool": str(tmp_path / "pool")})
    assert "No such file" in found[0]["problem"]
    assert found[1]["problem"] == "its content is not what was annotated"
    assert found[2]["problem"] is None
    assert [picture["image"] is None for picture in found] == [True, True, False]
    assert "noisy" not in found[0]
    gone = shown(manifest, uris, uris, {"pool": str(tmp_path / "nowhere")})
    assert all(picture["problem"] for picture in gone)


def test_grey_pictures(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path, sigma_min=[0.5] * 12)
    (picture,) = shown(manifest, ["003.png"], ["004.png"])
    assert decoded(picture["noisy"]).shape == decoded(picture["image"]).shape == (8, 8, 1)
    assert picture["curve"] is picture["fit"] is None


def test_encoding_keeps_small_pictures_and_the_centre_of_large_ones() -> None:
    random = np.random.default_rng(0)
    small, large = (random.integers(0, 256, (3, side, side), dtype=np.uint8) for side in (64, 200))
    np.testing.assert_array_equal(chw(decoded(encode(small))), small)
    centre = chw(decoded(encode(large))).astype(float)
    assert centre.shape == (3, MAX_SIDE, MAX_SIDE)
    difference = centre - large[:, 36:164, 36:164]
    assert abs(difference.mean()) < 1
    assert difference.std() < 12  # noise, at JPEG's quality 88; of other pixels it would be 104
    assert len(encode(large)) < 80_000


def test_most_similar() -> None:
    others = {str(i): thumb(np.full((3, 18, 18), v, dtype=np.uint8)) for i, v in enumerate(np.linspace(0, 255, 5))}
    assert most_similar(thumb(np.full((3, 16, 16), 130, dtype=np.uint8)), others) == "2"
    left = np.zeros((3, 16, 16), dtype=np.uint8)
    left[:, :, :8] = 255
    assert most_similar(thumb(left), {**others, "left": thumb(left), "right": thumb(255 - left)}) == "left"
    assert most_similar(thumb(left), {}) is None
