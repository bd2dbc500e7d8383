"""What is told beside pictures and cannot be used is said, and counted."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from ambient.curate.aside import unlabelled
from ambient.curate.beside import as_label
from ambient.curate.pool import find, scan, to_table
from shards import IMAGE, png, records_of, write_pictures, write_tar, write_zip


def warnings(root: Path) -> tuple[str, ...]:
    return find({"pool": str(root)}).warnings


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, 0), (7, 7), (1.0, 1), (2**31 - 1, 2**31 - 1)]
    + [(value, None) for value in (-1, 2**31, 0.5, True, "cat", None, math.nan, math.inf, [1])],
)
def test_a_label_is_a_whole_number_from_0_on(value: object, label: int | None) -> None:
    assert as_label(value) == label


def test_labels_of_a_column_that_are_none_are_counted_and_one_is_shown(tmp_path: Path) -> None:
    """As a table writes them where some are missing: floats, NaN and -1 say nothing wrong."""
    pictures = [png(number) for number in range(4)]
    write_pictures(tmp_path / "a.parquet", pictures, label=["dog", "cat", None, "cat"])
    write_pictures(tmp_path / "b.parquet", pictures, label=pa.array([1.0, math.nan, None, 0.0]))
    write_pictures(tmp_path / "c.parquet", pictures, label=[-1, 3, 2**40, 0])
    assert warnings(tmp_path / "a.parquet") == (
        "labels in column label that are left out: 3, such as 'dog'; a label is a whole number from 0 on",
    )
    assert warnings(tmp_path / "b.parquet") == ()
    assert [row["label"] for row in records_of(tmp_path / "b.parquet").values()] == [1, None, None, 0]
    assert warnings(tmp_path / "c.parquet") == (
        f"labels in column label that are left out: 1, such as {2**40}; a label is a whole number from 0 on",
    )
    assert [row["label"] for row in records_of(tmp_path / "c.parquet").values()] == [None, 3, None, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"labels": [[', "no label is taken from dataset.json: "),
        ("[1, 2]", "no label is taken from dataset.json: "),
        ('{"labels": ' + "[" * 100_000, "no label is taken from dataset.json: "),
        (
            json.dumps({"labels": [["0.png", "cat"], ["1.png", [0.1, 0.9]]]}),
            "labels in dataset.json that are left out: 2, such",
        ),
        (json.dumps({"labels": None}), None),
        (json.dumps({"labels": [["0.png", 1], ["1.png", 0]]}), None),
    ],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_dataset_json_that_tells_nothing_is_noted(tmp_path: Path, text: str, words: str | None, as_zip: bool) -> None:
    members = {"0.png": png(0), "1.png": png(1), "dataset.json": text.encode()}
    root = tmp_path / "pool.zip" if as_zip else tmp_path / "pool"
    if as_zip:
        write_zip(root, members)
    else:
        root.mkdir()
        for name, data in members.items():
            (root / name).write_bytes(data)
    said = warnings(root)
    assert len(said) == (words is not None)
    assert all(line.startswith(words or "") for line in said)


def test_of_several_columns_of_labels_the_first_counts(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a.parquet", [png(0), png(1)], label=[3, None], **{"class": ["cat", "dog"]})
    assert [row["label"] for row in records_of(tmp_path / "a.parquet").values()] == [3, None]
    assert warnings(tmp_path / "a.parquet") == (
        "labels in column class that are left out: 1, such as 'dog'; a label is a whole number from 0 on",
    )


def test_a_cls_that_is_no_number_is_counted(tmp_path: Path) -> None:
    members = {f"{number}.png": png(number) for number in range(5)}
    members |= {"0.cls": b"3\n", "1.cls": b"cat", "2.cls": b"1.5", "3.json": b"{}", "4.cls": b"0"}
    roots = {"pool": str(write_tar(tmp_path / "a.tar", members))}
    found = find(roots)
    records = to_table(scan(found, roots, workers=0))
    assert records["label"].to_pylist() == [3, None, None, None, 0]
    assert unlabelled(found.candidates, records) == 2


def test_of_two_columns_of_pictures_the_one_that_is_left_is_named(tmp_path: Path) -> None:
    masks = pa.array([{"bytes": png(number), "path": None} for number in range(2)], IMAGE)
    write_pictures(tmp_path / "a.parquet", [png(0), png(1)], mask=masks)
    write_pictures(tmp_path / "b.parquet", [png(2)], mask=masks.slice(0, 1))
    assert warnings(tmp_path) == ("pictures are those of column image, not of mask",)


def test_further_pictures_of_a_webdataset_sample_are_counted_and_not_taken(tmp_path: Path) -> None:
    """Names of folders have dots of their own; a picture with two extensions and no other is taken."""
    names = ["a.jpg", "a.seg.png", "b.png", "b.Depth.PNG", "c.v2.png", "d.1/e.png", ".f.png"]
    roots = {"pool": str(write_tar(tmp_path / "a.tar", {name: png(number) for number, name in enumerate(names)}))}
    found = find(roots)
    assert [candidate.uri for candidate in found.candidates] == ["a.jpg", "b.png", "c.v2.png", "d.1/e.png"]
    assert found.others == {"depth.png": 1, "seg.png": 1}
    assert (
        len(find({"pool": str(write_zip(tmp_path / "a.zip", {"a.jpg": png(), "a.seg.png": png(1)}))}).candidates) == 2
    )


def test_hidden_files_and_folders_are_counted(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", "Thumbs.db", ".git/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    assert find({"pool": str(tmp_path)}).hidden == 3
    assert find({"pool": str(write_zip(tmp_path / "z.zip", {"a.png": png(), "__MACOSX/a.png": png()}))}).hidden == 1
