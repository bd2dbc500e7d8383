"""Files are whole or not there; what the user can put right is one line."""

import errno
import os
from pathlib import Path

import pytest
from ambient.curate.manifest import Work
from ambient.curate.whole import replacing, write_whole, writing
from ambient.schemas.errors import UserError


class Trouble(Exception):  # noqa: N818
    """Anything that may happen."""


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt])
def test_an_exception_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    for before in (None, "before"):
        path = tmp_path / "file"
        if before:
            path.write_text(before)
        with pytest.raises(error), replacing(path) as partial:
            partial.write_text("half")
            raise error
        assert listing(tmp_path) == (["file"] if before else [])
    assert path.read_text() == "before"


def test_success_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with replacing(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "is full: free some space"),
        (errno.EDQUOT, "is full: free some space"),
        (errno.EFBIG, "would be larger than files may be here .*: raise that limit"),
        (errno.EACCES, "cannot write to .*as simulated.*: check its permissions"),
    ],
)
def test_a_full_disk_and_a_locked_folder_are_one_line(tmp_path: Path, number: int, words: str) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(UserError, match=words) as error, replacing(path) as partial:
        partial.write_text("half")
        raise OSError(number, "as simulated", str(partial))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert listing(tmp_path) == ["file"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("path", ["s3://bucket/m.parquet", "memory://m.parquet", "runs:2/m.parquet"])
def test_a_url_is_one_line(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="looks like a url"):
        write_whole(Path(path), b"")
    with pytest.raises(UserError, match="looks like a url"), Work(Path(path), "0"):
        pass
    assert not list(tmp_path.iterdir())
    write_whole(tmp_path / "a:b", b"")


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        write_whole(tmp_path / "no" / "file", b"data")


@pytest.mark.parametrize("name", [".", "..", "", "folder"])
def test_a_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"is a folder: name the file to write$"):
        write_whole(Path(name), b"data")
    assert listing(tmp_path) == ["folder"]


def test_a_folder_that_may_not_be_looked_at_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "as simulated")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match="as simulated"):
        write_whole(tmp_path / "file", b"data")


def test_a_temporary_name_of_ones_own(tmp_path: Path) -> None:
    """Of two that write one file the last one wins, and both files are whole at all times."""
    path = tmp_path / "file"
    with replacing(path, name="first") as first, replacing(path, name=".second") as second:
        first.write_text("first")
        second.write_text("second")
        assert listing(tmp_path) == [".second", "first"]
    assert path.read_text() == "first"
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("synced", [True, False])
def test_what_is_not_flushed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    write_whole(tmp_path / "file", b"data", synced=synced)
    assert len(flushed) == synced
    assert (tmp_path / "file").read_bytes() == b"data"


def test_the_outer_place_does_not_hide_the_inner(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="inner is full"), writing(tmp_path / "outer"), writing(tmp_path / "inner"):
        raise OSError(errno.ENOSPC, "full")
