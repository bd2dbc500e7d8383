"""Choosing the clean set by folder and by predicate."""

import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from ambient.curate.pool import find, to_table
from ambient.curate.reference import check_split, in_clean_dir, roots_of, where
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import RECORD
from manifests import rows


def picked(pool: Path, clean: Path) -> list[str]:
    roots = roots_of(pool, clean)
    records = to_table(
        {**dict.fromkeys(RECORD.names), "uri": c.uri, "source": c.source, "status": "ok", "role": "pool"}
        for c in find(roots).candidates
    )
    return records.filter(pa.array(in_clean_dir(records, pool, clean, roots)))["uri"].to_pylist()


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Files with the names of pictures in folders whose names are traps."""
    folders = [
        "clean",
        "clean-2",
        "clean/deep",
        "Clean",
        "not/clean",
        "clean.zip!",
        "pool:x",
        "wild_card%",
        "wildXcard%",
    ]
    for folder in folders:
        (tmp_path / "pool" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / folder / "a.png").write_bytes(b"")
    for archive in ("clean.zip", "clean.zip.zip", "deep.zip"):
        with zipfile.ZipFile(tmp_path / "pool" / archive, "w") as file:
            file.writestr("clean/a.png", b"")
    (tmp_path / "pool" / "clean.png").write_bytes(b"")
    return tmp_path / "pool"


@pytest.mark.parametrize(
    ("clean", "expected"),
    [
        ("clean", ["clean/a.png", "clean/deep/a.png"]),
        ("clean/", ["clean/a.png", "clean/deep/a.png"]),
        ("not/../clean-2", ["clean-2/a.png"]),
        ("not/clean", ["not/clean/a.png"]),
        ("not", ["not/clean/a.png"]),
        ("clean.zip", ["clean.zip!/clean/a.png"]),
        ("clean.zip!", ["clean.zip!!/a.png"]),
        ("pool:x", ["pool:pool:x/a.png"]),
        ("wild_card%", ["wild_card%/a.png"]),
        ("clean.png", []),
    ],
)
def test_clean_directory_or_archive_inside_the_pool(pool: Path, clean: str, expected: list[str]) -> None:
    assert picked(pool, pool / clean) == expected
    assert list(roots_of(pool, pool / clean)) == ["pool"]


def test_clean_directory_outside_the_pool(pool: Path) -> None:
    for name in ("good", "pool-2"):  # the second: a name that begins with the pool's
        outside = pool.parent / name
        outside.mkdir()
        (outside / "a.png").write_bytes(b"")
        assert roots_of(pool, outside) == {"pool": str(pool), "clean": str(outside)}
        assert picked(pool, outside) == ["clean:a.png"]


def test_clean_archive_outside_the_pool(pool: Path) -> None:
    outside = (pool / "clean.zip").rename(pool.parent / "good.zip")
    assert picked(pool, outside) == ["clean:clean/a.png"]


def test_folder_named_like_the_clean_root(pool: Path) -> None:
    for folder in (pool / "clean:", pool.parent / "good"):
        folder.mkdir()
        (folder / "a.png").write_bytes(b"")
    assert picked(pool, pool.parent / "good") == ["clean:a.png"]


def test_whole_pool_and_relative_paths(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(picked(pool, pool)) == 13
    monkeypatch.chdir(pool)
    assert picked(Path(), Path("clean-2")) == ["clean-2/a.png"]
    monkeypatch.chdir(pool / "not")
    assert picked(Path(".."), Path("clean")) == ["not/clean/a.png"]


def test_where() -> None:
    table = rows(4, source=["a", "b", "a", "c"], width=[8, 16, 32, 64]).select(RECORD.names)
    assert where(table, "source = 'a' AND width > 8").tolist() == [False, False, True, False]
    assert where(table, "uri LIKE '%3.png' OR height IS NULL").tolist() == [False, False, False, True]
    assert where(table, "false").tolist() == [False] * 4
    with pytest.raises(UserError, match="sharpnes"):
        where(table, "sharpnes > 0")


@pytest.mark.parametrize(
    ("clean", "other", "words"),
    [
        (0, 50, "no usable picture is clean by --clean x"),
        (50, 0, "every usable picture is clean by --clean x"),
        (9, 50, "only 9 usable clean pictures"),
        (50, 3, "only 3 usable other pictures"),
    ],
)
def test_check_split(clean: int, other: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_split(clean, other, "--clean x")


def test_check_split_passes_ten_of_each() -> None:
    check_split(10, 10, "--clean x")
