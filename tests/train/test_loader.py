"""The Sampler and Dataset for other people's loops: the trainer's own stream, whatever the workers and ranks."""

import itertools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ambient.curate.units import to_unit
from ambient.curate.uris import close_archives
from ambient.schemas.errors import UserError
from ambient.schemas.usable import usable
from ambient.train.batches import batches
from ambient.train.config import TrainConfig
from ambient.train.loader import Draw, Draws, ManifestDataset
from ambient.train.loop import build_sampler
from ambient.train.pictures import open_pictures
from ambient.train.rows import Rows, read_rows
from ambient.train.sampler import Sampler
from ambient.train.target import fixed_noise, fresh_noise
from ambient.train.world import World
from PIL import Image
from small_pool import write_pool
from torch import Tensor
from torch.utils.data import DataLoader

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)
CONFIG = TrainConfig(num_images=96, batch_size=16, seed=5)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more workers than cores
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    levels = {"sigma_min": [0.0, 0.3, 0.1, 1.5] * 3, "sigma_max": [0.0, 0.0, 0.2, 0.1] * 3}
    return read_rows(write_pool(tmp_path_factory.mktemp("pool"), labels=[0, 1, None] * 4, **levels))


@pytest.fixture(scope="module")
def sampler(rows: Rows) -> Sampler:
    return build_sampler(rows, CONFIG)


def loaded(rows: Rows, draws: Draws, *, workers: int = 0, batch_size: int = 16) -> list[dict[str, Tensor]]:
    return list(DataLoader(ManifestDataset(rows, seed=5), sampler=draws, batch_size=batch_size, num_workers=workers))


def assert_same(left: list[dict[str, Tensor]], right: list[dict[str, Tensor]]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_the_stream_is_the_trainers(rows: Rows, sampler: Sampler) -> None:
    pictures = open_pictures(rows, CPU)
    found = loaded(rows, Draws(sampler, num_images=96))
    expected = list(batches(rows, sampler, None, CONFIG, start=0, world=ALONE, pictures_on=CPU))
    assert len(found) == len(expected) == 6
    for batch, other in zip(found, expected, strict=True):
        assert torch.equal(batch["row"], other.rows)
        assert torch.equal(batch["sigma"], other.sigma)
        assert torch.equal(batch["s"], other.s)
        assert torch.equal(batch["w0"], to_unit(pictures.gather(other.rows)))
        assert torch.equal(batch["z"], fixed_noise(other.names, rows.space.shape, seed=5))
        assert torch.equal(batch["e"], fresh_noise(other.indices, rows.space.shape, seed=5))


def test_an_item_is_what_the_manifest_and_the_file_say(rows: Rows) -> None:
    item = ManifestDataset(rows)[Draw(3, 0.05, 77)]
    with Image.open(Path(rows.roots["pool"]) / "003.png") as image:
        expected = torch.from_numpy(np.asarray(image).astype(np.float32))[None] / 127.5 - 1
    torch.testing.assert_close(item["w0"], expected)
    assert item["label"] == 0
    assert item["s"] == 0  # 0.05 is below its sigma_max
    assert ManifestDataset(rows)[Draw(3, 2.0, 77)]["s"] == 1.5
    assert ManifestDataset(rows)[Draw(2, 2.0, 77)]["label"] == -1
    assert torch.equal(ManifestDataset(rows)[Draw(3, 2.0, 78)]["z"], item["z"])
    assert not torch.equal(ManifestDataset(rows)[Draw(3, 2.0, 78)]["e"], item["e"])
    assert {item[name].dtype for name in ("w0", "z", "e", "sigma", "s")} == {torch.float32}
    assert len(ManifestDataset(rows)) == 12


def test_no_picture_is_used_where_it_is_not_trusted(rows: Rows, sampler: Sampler) -> None:
    draws = list(Draws(sampler, num_images=20_000))
    row, sigma = torch.tensor([draw.row for draw in draws]), torch.tensor([draw.sigma for draw in draws]).double()
    assert usable(sigma, rows.sigma_min[row].double(), rows.sigma_max[row].double()).all()
    assert len(row.unique()) == 12


def test_workers_change_nothing(rows: Rows, sampler: Sampler) -> None:
    assert_same(*(loaded(rows, Draws(sampler, num_images=96), workers=workers) for workers in (0, 4)))


def test_resuming_is_starting_later(rows: Rows, sampler: Sampler) -> None:
    assert_same(loaded(rows, Draws(sampler, num_images=96, start=48)), loaded(rows, Draws(sampler, num_images=96))[3:])


def test_ranks_share_each_global_batch(rows: Rows, sampler: Sampler) -> None:
    whole = loaded(rows, Draws(sampler, num_images=96))
    ranks = [loaded(rows, Draws(sampler, num_images=96, rank=r, world_size=4), batch_size=4) for r in range(4)]
    merged = [
        {name: torch.stack([part[name] for part in parts], dim=1).flatten(0, 1) for name in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]
    assert_same(merged, whole)


def test_every_rank_has_as_many_pictures(sampler: Sampler) -> None:
    draws = [Draws(sampler, num_images=101, start=10, rank=r, world_size=3) for r in range(3)]
    assert [len(one) for one in draws] == [30] * 3
    numbers = [[draw.number for draw in one] for one in draws]
    assert [len(one) for one in numbers] == [30] * 3
    assert sorted(itertools.chain(*numbers)) == list(range(10, 100))


def test_lots_do_not_show(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(Draws(sampler, num_images=96, rank=1, world_size=2))
    monkeypatch.setattr("ambient.train.loader._AHEAD", 7)
    assert list(Draws(sampler, num_images=96, rank=1, world_size=2)) == whole


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_the_next_pass_goes_on_where_the_last_one_ended(rows: Rows, sampler: Sampler, options: dict[str, Any]) -> None:
    draws = Draws(sampler, num_images=48, start=16)
    loader = DataLoader(ManifestDataset(rows, seed=5), sampler=draws, batch_size=16, **options)
    found = []
    for _ in range(3):
        assert len(loader) == 2
        found += [batch for _, batch in zip(range(2), loader, strict=False)]  # which never asks for a third
    assert_same(found, loaded(rows, Draws(sampler, num_images=112, start=16)))


def test_the_next_pass_begins_with_what_did_not_divide_evenly(sampler: Sampler) -> None:
    ranks = [Draws(sampler, num_images=101, start=10, rank=r, world_size=3) for r in range(3)]
    for start in (10, 100, 190):
        assert sorted(draw.number for one in ranks for draw in one) == list(range(start, start + 90))


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_that_was_broken_off_is_not_followed_by_another(
    rows: Rows, sampler: Sampler, batch_size: int | None, workers: int
) -> None:
    """An iterator that nothing was asked of, though, is none that was broken off."""
    draws = Draws(sampler, num_images=96)
    loader = DataLoader(ManifestDataset(rows), sampler=draws, batch_size=batch_size, num_workers=workers)
    unused, used = iter(draws), iter(loader)
    next(used)
    with pytest.raises(UserError, match="start is the number of pictures seen"):
        list(loader)
    with pytest.raises(UserError, match="begun and not ended"):
        next(unused)
    assert sum(1 for _ in used) == len(loader) - 1
    assert next(iter(draws)).number == 96


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"batch_size": None}, {"num_workers": 1}])
def test_without_draws_it_says_what_is_missing(rows: Rows, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"pass sampler=Draws\(\.\.\.\)"):
        next(iter(DataLoader(ManifestDataset(rows), **options)))


def test_noise_can_be_left_to_the_loop(rows: Rows, sampler: Sampler) -> None:
    dataset = ManifestDataset(rows, seed=5, noise=False)
    (lean,) = DataLoader(dataset, sampler=Draws(sampler, num_images=16), batch_size=16)
    (full,) = loaded(rows, Draws(sampler, num_images=16))
    assert full.keys() - lean.keys() == {"z", "e"}
    assert torch.equal(fixed_noise(lean["name"], rows.space.shape, seed=5), full["z"])
    assert torch.equal(fresh_noise(lean["number"], rows.space.shape, seed=5), full["e"])


def test_workers_may_share_an_archive_that_was_read_before(tmp_path: Path) -> None:
    """A forked process shares the position in an open file with its parent and with its sisters."""
    manifest = write_pool(tmp_path, num=200, sigma_min=[0.0] * 200)
    with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
        for path in sorted((tmp_path / "pool").iterdir()):
            archive.write(path, path.name)
    rows = read_rows(manifest, roots={"pool": str(tmp_path / "pool.zip")})
    dataset, plain = ManifestDataset(rows), ManifestDataset(read_rows(manifest))
    draws = [Draw(row, 1.0, row) for row in range(200)] * 3
    assert torch.equal(dataset[draws[0]]["w0"], plain[draws[0]]["w0"])  # opens the archive in this process
    found = DataLoader(dataset, sampler=draws, batch_size=5, num_workers=4, multiprocessing_context="fork")
    try:
        w0 = torch.cat([batch["w0"] for batch in found])
    finally:
        close_archives()
    assert torch.equal(w0, torch.stack([plain[draw]["w0"] for draw in draws]))


def test_a_picture_that_is_gone_or_another_one_is_named(tmp_path: Path) -> None:
    rows = read_rows(write_pool(tmp_path))
    dataset = ManifestDataset(rows)
    (tmp_path / "pool" / "001.png").write_bytes((tmp_path / "pool" / "002.png").read_bytes())
    (tmp_path / "pool" / "003.png").unlink()
    with pytest.raises(UserError, match=r"001\.png.* content has changed"):
        dataset[Draw(1, 1.0, 0)]
    with pytest.raises(UserError, match=r"003\.png.* No such file"):
        dataset[Draw(3, 1.0, 0)]


@pytest.mark.parametrize(
    "wrong", [{"rank": 2, "world_size": 2}, {"rank": -1}, {"start": 97}, {"start": -1}, {"world_size": 0}]
)
def test_ranks_and_starts_that_cannot_be(sampler: Sampler, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="rank must be below world_size"):
        Draws(sampler, num_images=96, **wrong)
