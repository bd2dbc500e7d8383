"""Pools that fsspec reads, with its memory and local file systems; the trainer reads what the annotator wrote."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from ambient.curate import files
from ambient.curate.annotate import annotate
from ambient.curate.config import AnnotateConfig
from ambient.curate.pool import find, scan
from ambient.curate.reference import in_clean_dir, roots_of
from ambient.curate.remote import address
from ambient.curate.uris import close_archives, read_bytes
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import read_metadata
from ambient.train.pictures import open_pictures
from ambient.train.rows import read_rows
from photo_pool import write_photo_pool
from shards import png, write_pictures, write_tar, write_zip


@pytest.fixture(autouse=True)
def _empty_memory():
    yield
    memory = fsspec.filesystem("memory")
    if memory.exists("/"):
        memory.rm("/", recursive=True)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Every kind of thing that a pool may hold."""
    folder = tmp_path / "pool"
    (folder / "cats" / "deep").mkdir(parents=True)
    for name in ("top.png", "cats/a.png", "cats/deep/b.png", "no_extension", ".hidden.png"):
        (folder / name).write_bytes(png(len(name)))
    (folder / "cats" / "a.txt").write_text("a cat")
    (folder / "torn.png").write_bytes(png()[:99])
    (folder / "notes.md").write_text("text")
    write_tar(folder / "s.tar", {"x/1.png": png(1), "x/2.png": png(2), "x/1.cls": b"5"})
    write_zip(folder / "z.zip", {"1.png": png(3)})
    write_pictures(folder / "p.parquet", [png(4), png(5)], label=[8, 9])
    return folder


def upload(folder: Path) -> str:
    fsspec.filesystem("memory").put(f"{folder}/", "/bucket/pool/", recursive=True)
    return "memory://bucket/pool"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_pool_elsewhere_has_the_rows_of_the_same_pool_here(pool: Path, kind: str) -> None:
    here = {"pool": str(pool)}
    there = {"pool": upload(pool) if kind == "memory" else f"file://{pool}"}
    found = find(there)
    rows = list(scan(found, there, workers=2))
    assert rows == list(scan(find(here), here, workers=2))
    assert found.others == find(here).others == {"md": 1}
    assert len(rows) == 10
    assert {row["label"] for row in rows} == {None, 5, 8, 9}
    for row in rows:
        assert read_bytes(row["uri"], there) == read_bytes(row["uri"], here)


@pytest.mark.parametrize("name", ["s.tar", "z.zip", "p.parquet"])
def test_an_archive_elsewhere_may_be_the_pool(pool: Path, name: str) -> None:
    here, there = {"pool": str(pool / name)}, {"pool": f"{upload(pool)}/{name}"}
    assert list(scan(find(there), there, workers=2)) == list(scan(find(here), here, workers=2))


def test_a_list_may_name_what_lies_elsewhere(pool: Path) -> None:
    url = upload(pool)
    (pool.parent / "list.txt").write_text(f"{url}/cats/a.png\n{url}/s.tar\npool/top.png\n")
    roots = {"pool": str(pool.parent / "list.txt")}
    rows = list(scan(find(roots), roots, workers=1))
    assert [(row["uri"], row["status"], row["source"]) for row in rows] == [
        (f"{url}/cats/a.png", "ok", "cats"),
        (f"{url}/s.tar!/x/1.png", "ok", "s.tar"),
        (f"{url}/s.tar!/x/2.png", "ok", "s.tar"),
        ("pool/top.png", "ok", "pool"),
    ]


def test_pathlib_folds_urls_and_they_are_unfolded() -> None:
    for url in ("s3://bucket/a b/c", "hf://datasets/me/x", "memory://pool", "file:///data/x", "gs://b"):
        assert address(Path(url)) == url
    assert address(Path("a/b")) == str(Path("a/b").resolve())


def test_a_clean_folder_inside_a_pool_elsewhere() -> None:
    roots = roots_of(Path("s3://bucket/pool"), Path("s3://bucket/pool/clean"))
    assert roots == {"pool": "s3://bucket/pool"}
    import pyarrow as pa

    records = pa.table({"uri": ["clean/a.png", "cleaner/a.png"]})
    assert in_clean_dir(records, Path("s3://bucket/pool"), Path("s3://bucket/pool/clean"), roots).tolist() == [
        True,
        False,
    ]
    roots = roots_of(Path("s3://bucket/pool"), Path("s3://other"))
    assert roots == {"pool": "s3://bucket/pool", "clean": "s3://other"}


def test_what_is_not_there_or_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is nothing at memory://no/pool"):
        find({"pool": "memory://no/pool"})
    with pytest.raises(UserError, match="nosuch:// cannot be read"):
        find({"pool": "nosuch://pool"})
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    with pytest.raises(UserError, match="s3fs"):
        find({"pool": "s3://bucket/pool"})


def test_a_picture_that_is_too_large_is_not_read_whole(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 50)
    with pytest.raises(OSError, match="too large"):
        read_bytes("top.png", {"pool": upload(pool)})


def test_fsspec_is_imported_only_for_urls(pool: Path) -> None:
    code = (
        "import sys; from ambient.curate.pool import find, scan; "
        f"roots = {{'pool': {str(pool)!r}}}; assert len(list(scan(find(roots), roots, workers=1))) == 10; "
        "assert 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["memory", "tar", "zip", "list"])
def test_the_trainer_reads_what_the_annotator_wrote(tmp_path: Path, kind: str) -> None:
    folder = write_photo_pool(tmp_path / "photos", clean=12, per_blur=6)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    data = {name: (folder / name).read_bytes() for name in names}
    if kind == "memory":
        root = Path(upload(folder))
    elif kind == "list":
        root = tmp_path / "list.txt"
        root.write_text("".join(f"photos/{name}\n" for name in names))
    else:
        root = (write_tar if kind == "tar" else write_zip)(tmp_path / f"photos.{kind}", data)
        shutil.rmtree(folder)
    config = AnnotateConfig(clean_where="uri LIKE '%clean/%'", steps=2, draws=1, accept_indistinguishable=True)
    manifest = annotate(root, tmp_path / "m.parquet", config, device="cpu")
    assert read_metadata(manifest).roots == {"pool": address(root)}
    rows = read_rows(manifest)
    assert len(rows) == 24
    close_archives()
    pictures = open_pictures(rows, torch.device("cpu"), place="device", workers=2)
    assert pictures.gather(torch.arange(24)).float().std() > 1
    assert set(pq.read_table(manifest)["status"].to_pylist()) == {"ok"}


def test_a_shard_that_was_there_and_is_gone(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w"):
        pass
    with pytest.raises(KeyError):
        read_bytes("s.tar!/a.png", {"pool": str(tmp_path)})
    (tmp_path / "s.tar").unlink()
    with pytest.raises(FileNotFoundError):
        read_bytes("s.tar!/a.png", {"pool": str(tmp_path)})
