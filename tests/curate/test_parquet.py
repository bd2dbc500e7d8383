"""Parquet files of pictures as ``datasets`` writes them, and lists of paths, as pools."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ambient.curate import parquet
from ambient.curate.parquet import PictureTable, columns_of
from ambient.curate.pool import find
from ambient.curate.uris import read_bytes
from ambient.schemas.errors import UserError
from awkward import picture
from PIL import Image
from shards import IMAGE, good_at_once, png, records_of, write_pictures


@pytest.mark.parametrize("as_root", [True, False])
def test_rows_are_pictures_with_label_and_caption(tmp_path: Path, as_root: bool) -> None:
    pictures = [png(0), png(1), b"torn", None, png(4)]
    labels, texts = [3, None, 1, 2, 0], ["a", None, "c", "d", ""]
    path = write_pictures(tmp_path / "a.parquet", pictures, group=2, label=labels, text=texts)
    rows = list(records_of(path if as_root else tmp_path).values())
    prefix = "" if as_root else "a.parquet!/"
    assert [row["uri"] for row in rows] == [f"{prefix}row-{n:09d}" for n in range(5)]
    assert [row["status"] for row in rows] == ["ok", "ok", "unreadable", "unreadable", "ok"]
    assert [row["label"] for row in rows] == labels
    assert [row["caption"] for row in rows] == ["a", None, "c", "d", None]
    assert "no bytes" in rows[3]["reason"]
    assert {row["source"] for row in rows} == {"a.parquet"}


def test_what_datasets_writes_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.fromarray(picture() + number) for number in range(3)]
    written = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 1]}, features=features)
    written.to_parquet(str(tmp_path / "train.parquet"))
    rows = records_of(tmp_path)
    assert [(row["status"], row["label"]) for row in rows.values()] == [("ok", 0), ("ok", 1), ("ok", 1)]


def test_other_tables_are_no_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "table.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    found = find({"pool": str(tmp_path)})
    assert found.others == {"parquet": 1}
    assert [c.uri for c in found.candidates] == ["broken.parquet"]
    assert "not a readable Parquet file" in found.candidates[0].problem
    for name in ("table", "broken"):
        with pytest.raises(UserError, match=r"neither a column of pictures|not a readable Parquet"):
            find({"pool": str(tmp_path / f"{name}.parquet")})


@pytest.mark.parametrize(
    ("columns", "image"),
    [
        ({"image": IMAGE, "label": pa.int64()}, "image.bytes"),
        ({"other": pa.binary(), "photo": IMAGE}, "photo.bytes"),
        ({"png": pa.large_binary(), "key": pa.string()}, "png"),
        ({"z": IMAGE, "image": pa.binary()}, "image"),
        ({"blob": pa.binary(), "image": pa.string()}, None),
    ],
)
def test_which_column_holds_pictures(columns: dict[str, pa.DataType], image: str | None) -> None:
    assert columns_of(pa.schema(list(columns.items()))).image == image


def test_rows_in_any_order_from_threads_and_after_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few rows in row groups of another size, of which few are kept."""
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 9000)
    monkeypatch.setattr(parquet, "_BATCHES", 1)
    data = [os.urandom(3000) for _ in range(50)]
    write_pictures(tmp_path / "a.parquet", data, group=7)
    roots = {"pool": str(tmp_path)}

    def read(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(50, size=300).tolist()
        return all(read_bytes(f"a.parquet!/row-{row:09d}", roots) == data[row] for row in order)

    assert read(0)
    assert good_at_once(read, threads=(2, 3, 4), processes=[1])
    for name in ("row-000000050", "row--00000001", "a.png"):
        with pytest.raises(KeyError):
            read_bytes(f"a.parquet!/{name}", roots)


def test_reading_in_order_opens_each_batch_once_and_keeps_few(tmp_path: Path, monkeypatch) -> None:
    """A row group of 64 MiB is read with a small part of that in memory."""
    path = write_pictures(tmp_path / "a.parquet", [os.urandom(1 << 13) for _ in range(8192)], group=8192)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "_BATCHES", 2)
    before = pa.total_allocated_bytes()
    table, most, begun = PictureTable(path.open("rb")), 0, []
    real = table._file.iter_batches
    monkeypatch.setattr(table._file, "iter_batches", lambda **options: begun.append(1) or real(**options))
    for row in range(8192):
        assert len(table.read(row)) == 1 << 13
        most = max(most, pa.total_allocated_bytes() - before)
    assert begun == [1]
    assert most < 32 << 20  # pages are of 1,024 rows, 8 MiB


def test_every_row_after_damage_has_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows before it are read, also those of another row group, and again in any order."""
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 9000)
    path = write_pictures(tmp_path / "a.parquet", [os.urandom(3000) for _ in range(12)], group=6)
    pages = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    start = pages.data_page_offset
    data[start : start + 12] = b"\xff" * 12
    path.write_bytes(data)
    table = PictureTable(path.open("rb"))
    said = set()
    for row in (5, 0, 3, 11, 1, 6, 2, 4):
        if row >= 6:
            assert len(table.read(row)) == 3000
        else:
            with pytest.raises((OSError, pa.ArrowException)) as error:
                table.read(row)
            said.add(str(error.value))
    assert len(said) == 1


@pytest.fixture
def listed(tmp_path: Path) -> list[str]:
    """Paths of a list in tmp_path/lists: relative, above it, absolute, an archive, missing, and one twice."""
    import tarfile

    for name in ("lists/cats/a.png", "up.png", "far/dogs/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(len(name)))
    with tarfile.open(tmp_path / "far/s.tar", "w") as tar:
        tar.add(tmp_path / "up.png", "in.png")
    far = str(tmp_path / "far")
    return ["cats/a.png", "../up.png", f"{far}/dogs/b.png", f"{far}/s.tar", "gone.png", "cats/a.png", f"{far}/dogs"]


@pytest.mark.parametrize("form", ["txt", "parquet"])
def test_a_list_of_paths(tmp_path: Path, listed: list[str], form: str) -> None:
    path = tmp_path / "lists" / f"list.{form}"
    if form == "txt":
        path.write_text("\n".join([*listed[:3], "", *listed[3:]]) + "\n")
    else:
        pq.write_table(pa.table({"path": listed, "label": list(range(7)), "prompt": [f"p{n}" for n in range(7)]}), path)
    rows, far = records_of(path), str(tmp_path / "far")
    expected = {
        "cats/a.png": ("ok", "cats"),
        "../up.png": ("ok", ".."),
        f"{far}/dogs/b.png": ("ok", "dogs"),
        f"{far}/s.tar!/in.png": ("ok", "s.tar"),
        "gone.png": ("unreadable", f"list.{form}"),
        "cats/a.png#1": ("unreadable", "cats"),
        f"{far}/dogs": ("unreadable", "far"),
    }
    assert {uri: (row["status"], row["source"]) for uri, row in rows.items()} == expected
    assert "twice" in rows["cats/a.png#1"]["reason"]
    assert "No such file" in rows["gone.png"]["reason"]
    if form == "parquet":
        known = {uri: (row["label"], row["caption"]) for uri, row in rows.items()}
        assert known["cats/a.png"] == (0, "p0")
        assert known[f"{far}/dogs/b.png"] == (2, "p2")
    for uri, row in rows.items():
        if row["status"] == "ok":
            assert len(read_bytes(uri, {"pool": str(path)})) == row["num_bytes"]
