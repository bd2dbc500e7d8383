"""Checkpoints come back as they were written; damaged ones are passed over aloud; a full disk leaves nothing behind."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from ambient.schemas.errors import UserError
from ambient.train import checkpoint
from ambient.train.checkpoint import Checkpoint, newest, write
from torch.testing import assert_close


def sample(num_images: int) -> Checkpoint:
    weights = {"a.b": torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), "step": torch.tensor(7.0)}
    return Checkpoint(num_images=num_images, parts={"weights": weights, "ema": {}}, about={"config": {"x": [1, 2]}})


def newest_quietly(run: Path) -> tuple[Path, Checkpoint] | None:
    def fail(message: str) -> None:
        raise AssertionError(message)

    return newest(run, parts=("weights", "ema"), warn=fail)


def test_round_trip(tmp_path: Path) -> None:
    saved = sample(1234)
    folder = write(tmp_path, saved, keep=2)
    assert folder == tmp_path / "checkpoints" / "000000001234"
    found = newest_quietly(tmp_path)
    assert found is not None
    assert found[0] == folder
    assert (found[1].num_images, found[1].about) == (1234, saved.about)
    assert_close(found[1].parts, saved.parts, rtol=0, atol=0, check_stride=False)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for num_images in (1, 2, 3, 10):
        write(tmp_path, sample(num_images), keep=2)
    assert [f.name for f in checkpoint.folders(tmp_path)] == ["000000000003", "000000000010"]


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_passed_over_does_not_take_the_place_of_what_is_written(tmp_path: Path, keep: int) -> None:
    for num_images in (100, 200):
        write(tmp_path, sample(num_images), keep=2)
    cut_short(tmp_path / "checkpoints" / "000000000200" / "state.json")
    written = write(tmp_path, sample(150), keep=keep)
    assert checkpoint.folders(tmp_path)[-1] == written
    assert len(checkpoint.folders(tmp_path)) == keep
    found = newest_quietly(tmp_path)
    assert found is not None
    assert found[1].num_images == 150


def test_one_removed_while_it_is_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the run itself, which has just written a newer one."""
    write(tmp_path, sample(100), keep=1)
    read_part, pruned = checkpoint._read_part, []

    def slow(path: Path, checksum: str) -> checkpoint.Tensors:
        if not pruned:
            pruned.append(write(tmp_path, sample(200), keep=1))
        return read_part(path, checksum)

    monkeypatch.setattr(checkpoint, "_read_part", slow)
    found = newest_quietly(tmp_path)
    assert found is not None
    assert found[1].num_images == 200


def test_a_run_that_is_another_is_told_so_before_its_parts_are_missed(tmp_path: Path) -> None:
    write(tmp_path, sample(1), keep=2)

    def check(about: dict[str, Any]) -> None:
        assert about == sample(1).about
        raise UserError("another run")

    with pytest.raises(UserError, match="another run"):
        newest(tmp_path, parts=("weights", "ema7"), warn=pytest.fail, check=check)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json"])
@pytest.mark.parametrize("harm", [flip_a_byte, cut_short, Path.unlink])
def test_a_damaged_one_is_passed_over_aloud(tmp_path: Path, name: str, harm: Any) -> None:
    write(tmp_path, sample(1), keep=2)
    last = write(tmp_path, sample(2), keep=2)
    harm(last / name)
    told: list[str] = []
    found = newest(tmp_path, parts=("weights", "ema"), warn=told.append)
    assert found is not None
    assert found[1].num_images == 1
    assert len(told) == 1
    assert str(last) in told[0]
    harm(tmp_path / "checkpoints" / "000000000001" / name)
    with pytest.raises(UserError, match="every checkpoint"):
        newest(tmp_path, parts=("weights", "ema"), warn=told.append)


def test_an_unfinished_one_is_not_seen(tmp_path: Path) -> None:
    write(tmp_path, sample(1), keep=2)
    (tmp_path / "checkpoints" / "000000000002.partial").mkdir()
    found = newest_quietly(tmp_path)
    assert found is not None
    assert found[1].num_images == 1
    write(tmp_path, sample(2), keep=2)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["000000000001", "000000000002"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, sample(1), keep=1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(UserError, match="is full: free some space") as caught:
        write(tmp_path, sample(2), keep=1)
    assert "\n" not in str(caught.value)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["000000000001"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_quietly(tmp_path) is None
