import builtins
import errno
import hashlib
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate import uris
from ambient.curate.images import decode
from ambient.curate.pool import find, mark_duplicates, scan, to_table
from ambient.curate.scores import SCORES
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import RECORD, STATUSES
from awkward import UNREADABLE, Expected, build, encoded, picture
from PIL import Image
from shards import records_of


@pytest.fixture
def failing_open(monkeypatch):
    real = builtins.open

    def fail(path, *arguments, **options):
        if str(path).endswith("failing.png"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", fail)


def test_every_awkward_picture_is_one_row_with_its_status(tmp_path, failing_open):
    expected = build(tmp_path)
    rows = records_of(tmp_path)
    assert len(expected) >= 40
    assert sorted(rows) == sorted(e.uri for e in expected)
    wrong = {e.uri: (rows[e.uri]["status"], rows[e.uri]["reason"]) for e in expected if not as_expected(rows, e)}
    assert wrong == {}
    table = to_table(list(rows.values()))
    assert table.num_rows == len(rows)
    assert set(table["status"].to_pylist()) <= set(STATUSES)


def as_expected(rows: dict, expected: Expected) -> bool:
    row = rows[expected.uri]
    good = row["status"] == "ok"
    return (
        row["status"] == expected.status
        and expected.reason in (row["reason"] or "")
        and (row["reason"] is None) == good
        and (good or ("\n" not in row["reason"] and len(row["reason"]) <= 200))
        and all((row[name] is not None) == good for name in SCORES)
    )


def test_awkward_pixels_and_ids(tmp_path, failing_open):
    expected, roots = build(tmp_path), {"pool": str(tmp_path)}
    rows = records_of(tmp_path)
    for e in expected:
        row = rows[e.uri]
        known_before = "#" in e.uri or "\\x" in e.uri or e.uri == "broken.zip" or ".." in e.uri
        if e.uri in UNREADABLE or known_before or row["id"] is None:
            assert row["id"] is None, e.uri
            assert e.uri in UNREADABLE or known_before or e.uri == "damaged.zip!/good.png", e.uri
            continue
        data = uris.read_bytes(e.uri, roots)
        assert row["id"] == hashlib.blake2b(data, digest_size=16).hexdigest()
        assert row["num_bytes"] == len(data)
        if e.pixels is not None:
            pixels = decode(data).pixels
            assert pixels.shape == e.pixels.shape, e.uri
            assert (row["height"], row["width"]) == pixels.shape[:2]
            assert np.abs(pixels.astype(int) - e.pixels).max() <= e.tolerance, e.uri


def test_rows_do_not_depend_on_workers(tmp_path):
    build(tmp_path)
    assert records_of(tmp_path, workers=0) == records_of(tmp_path, workers=3)


def test_others_are_counted_and_hidden_files_are_not(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("x.txt", "a/y.TXT", "README", ".hidden.txt", "Thumbs.db"):
        (tmp_path / name).write_text("text")
    found = find({"pool": str(tmp_path)})
    assert found.others == {"": 1, "txt": 2}
    assert len(found.candidates) == 0


def test_sources(tmp_path):
    data = encoded(Image.fromarray(picture()))
    for name in ("top.png", "cats/a.png", "cats/deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for name in ("shard.zip", "cats/shard.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("dogs/a.png", data)
            archive.writestr("b.png", data)
    found = find({"pool": str(tmp_path)})
    assert {c.uri: c.source for c in found.candidates} == {
        "top.png": tmp_path.name,
        "cats/a.png": "cats",
        "cats/deep/b.png": "cats",
        "cats/shard.zip!/b.png": "cats",
        "cats/shard.zip!/dogs/a.png": "cats",
        "shard.zip!/b.png": "shard.zip",
        "shard.zip!/dogs/a.png": "shard.zip",
    }
    found = find({"pool": str(tmp_path / "shard.zip")})
    assert {c.uri: c.source for c in found.candidates} == {"b.png": "shard.zip", "dogs/a.png": "dogs"}


def test_two_roots(tmp_path):
    for root in ("one", "two"):
        (tmp_path / root).mkdir()
        (tmp_path / root / "a.png").write_bytes(encoded(Image.fromarray(picture())))
    roots = {"pool": str(tmp_path / "one"), "extra": str(tmp_path / "two")}
    records = list(scan(find(roots), roots, workers=1))
    assert [(r["uri"], r["source"], r["status"]) for r in records] == [
        ("a.png", "one", "ok"),
        ("extra:a.png", "two", "ok"),
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_with_or_without_a_byte_order_mark(tmp_path, mark):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(picture())))
    (tmp_path / "list.txt").write_bytes(mark + b"a.png\r\nb.png\n")
    assert {uri: row["status"] for uri, row in records_of(tmp_path / "list.txt").items()} == {
        "a.png": "ok",
        "b.png": "ok",
    }
    (tmp_path / "list.txt").write_bytes(mark)
    assert records_of(tmp_path / "list.txt") == {}


@pytest.mark.parametrize("name", ["missing", "file.png", "broken.zip"])
def test_a_root_that_is_no_folder(tmp_path, name):
    if name != "missing":
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=name):
        find({"pool": str(tmp_path / name)})


def table_of(rows: list[tuple[str, str | None, str, str]]) -> pa.Table:
    records = [
        dict.fromkeys(RECORD.names) | {"uri": u, "id": i, "source": "s", "status": s, "role": r} for u, i, s, r in rows
    ]
    return pa.Table.from_pylist(records, schema=RECORD)


def test_mark_duplicates_keeps_the_clean_one_then_the_first():
    table = table_of(
        [
            ("a", "1", "ok", "pool"),
            ("b", "2", "unreadable", "pool"),
            ("c", "1", "ok", "clean"),
            ("d", "2", "ok", "pool"),
            ("e", "2", "ok", "pool"),
            ("f", None, "unreadable", "pool"),
            ("g", "1", "ok", "clean"),
            ("h", "3", "too_small", "pool"),
        ]
    )
    marked = mark_duplicates(table)
    assert marked.schema == table.schema
    statuses = ["duplicate", "unreadable", "ok", "ok", "duplicate", "unreadable", "duplicate", "too_small"]
    assert marked["status"].to_pylist() == statuses
    reasons = ["same content as c", None, None, None, "same content as d", None, "same content as c", None]
    assert marked["reason"].to_pylist() == reasons


def test_mark_duplicates_against_brute_force():
    random = np.random.default_rng(0)
    rows = [
        (f"u{i}", f"{random.integers(60)}", ("ok", "ok", "excluded")[random.integers(3)], ("pool", "clean")[i % 7 == 0])
        for i in range(300)
    ]
    kept: dict[str, tuple[bool, int]] = {}
    for row, (_, content, status, role) in enumerate(rows):
        if status == "ok":
            kept[content] = min(kept.get(content, (True, 10**9)), (role != "clean", row))
    want = [
        "duplicate" if status == "ok" and kept[content][1] != row else status
        for row, (_, content, status, _) in enumerate(rows)
    ]
    table = pa.concat_tables([table_of(rows[:100]), table_of(rows[100:])])  # dictionaries that differ between chunks
    assert mark_duplicates(table)["status"].to_pylist() == want


def test_mark_duplicates_of_nothing():
    assert mark_duplicates(to_table([])).num_rows == 0
    assert mark_duplicates(table_of([("a", None, "unreadable", "pool")]))["status"].to_pylist() == ["unreadable"]
