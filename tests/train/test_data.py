"""Reading the manifest's rows and their pictures, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY
from ambient.schemas.space import Space
from ambient.train import data
from ambient.train.data import load_pictures, read_rows
from PIL import Image
from small_pool import write_pool

CPU = torch.device("cpu")


def test_only_ok_rows_take_part_and_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    status = ["ok", "excluded", "ok", "duplicate", "ok", "ok"]
    manifest = write_pool(
        tmp_path, num=6, space=Space(resolution=8), status=status, labels=[3, 1, None, 1, 2, 0], sigma_max=[0.1] * 6
    )
    rows = read_rows(manifest)
    assert rows.uris == ["000.png", "002.png", "004.png", "005.png"]
    assert rows.labels.tolist() == [3, -1, 2, 0]
    assert rows.sigma_min.tolist() == [0.0, 0.5, 0.5, 0.5]
    for workers in (0, 3):
        pictures = load_pictures(rows, CPU, workers=workers)
        for row, uri in enumerate(rows.uris):
            with Image.open(tmp_path / "pool" / uri) as image:
                assert np.array_equal(pictures.pixels[row].permute(1, 2, 0).numpy(), np.asarray(image))
    w0 = pictures.gather(torch.tensor([2, 0, 2]), CPU)
    assert torch.equal(w0, pictures.pixels[[2, 0, 2]].float() / 127.5 - 1)


def test_no_ok_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture with status 'ok'"):
        read_rows(write_pool(tmp_path, num=2, status=["excluded"] * 2))


def test_another_resolution_is_refused(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path)
    assert len(read_rows(manifest, resolution=8)) == 12
    with pytest.raises(UserError, match="annotate with `--resolution 16`"):
        read_rows(manifest, resolution=16)


def test_latents_are_refused(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path, space=Space(resolution=8, channels=1))
    table = pq.read_table(manifest)
    raw = table.schema.metadata[METADATA_KEY].replace(b'"pixel"', b'"latent"').replace(b'"vae": null', b'"vae": "sd"')
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: raw}), manifest)
    with pytest.raises(UserError, match="latents of sd"):
        read_rows(manifest)


def test_moved_pool_is_found_again_by_root(tmp_path: Path) -> None:
    manifest = write_pool(tmp_path)
    (tmp_path / "pool").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="--root pool=/new/place"):
        load_pictures(read_rows(manifest), CPU)
    rows = read_rows(manifest, roots={"pool": str(tmp_path / "moved")})
    assert len(load_pictures(rows, CPU).pixels) == 12
    with pytest.raises(UserError, match="no root named 'pol'"):
        read_rows(manifest, roots={"pol": "/"})


@pytest.mark.parametrize(("change", "reason"), [("remove", "FileNotFoundError"), ("replace", "not what was annotated")])
def test_a_missing_or_changed_picture_is_named(tmp_path: Path, change: str, reason: str) -> None:
    manifest = write_pool(tmp_path)
    victim = tmp_path / "pool" / "004.png"
    if change == "remove":
        victim.unlink()
    else:
        victim.write_bytes((tmp_path / "pool" / "005.png").read_bytes())
    with pytest.raises(UserError, match=rf"'004.png'.*{reason}"):
        load_pictures(read_rows(manifest), CPU)


def test_pictures_that_do_not_fit_into_memory_are_refused_with_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(write_pool(tmp_path))
    monkeypatch.setattr(data, "host_memory", lambda: 1000)
    with pytest.raises(UserError, match="GiB"):
        load_pictures(rows, CPU)


def test_fingerprint_covers_pictures_and_thresholds(tmp_path: Path) -> None:
    prints = {
        read_rows(write_pool(tmp_path / name, **kwargs)).fingerprint
        for name, kwargs in {
            "a": {},
            "b": {"num": 11},
            "c": {"sigma_max": [0.1] * 12},
            "d": {"sigma_min": [0.1] * 12},
            "e": {"labels": [1] * 12},
        }.items()
    }
    assert len(prints) == 5
    assert read_rows(write_pool(tmp_path / "again")).fingerprint in prints
