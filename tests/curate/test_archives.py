"""Tar shards and zips as pools: members by position, what lies beside pictures, what is damaged or refused."""

import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from ambient.curate import archives
from ambient.curate.archives import read_member
from ambient.curate.pool import find
from ambient.curate.uris import close_archives, read_bytes
from ambient.schemas.errors import UserError
from shards import Members, good_at_once, png, records_of, write_tar, write_zip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_what_tarfile_reads(tmp_path: Path, form: int) -> None:
    long = "x" * 60 + "/" + "y" * 90 + ".png"
    members = {f"{n // 3}/{n:03d}.png": png(n) for n in range(9)} | {"./here.png": png(10), long: png(11)}
    if form != tarfile.USTAR_FORMAT:
        members["d/" + "ü" * 200 + ".png"] = png(12)
    path = write_tar(tmp_path / "shard.tar", members, form)
    rows = records_of(tmp_path)
    assert sorted(rows) == sorted(f"shard.tar!/{name.removeprefix('./')}" for name in members)
    with tarfile.open(path) as tar:
        for name in members:
            uri = f"shard.tar!/{name.removeprefix('./')}"
            assert read_bytes(uri, {"pool": str(tmp_path)}) == tar.extractfile(name).read()
            assert (rows[uri]["status"], rows[uri]["source"]) == ("ok", "shard.tar")
    assert sorted(records_of(path)) == sorted(name.removeprefix("./") for name in members)


def test_what_lies_beside_tells_label_and_caption(tmp_path: Path) -> None:
    told = {"json": json.dumps({"caption": "of json", "label": 3, "width": 9}).encode(), "cls": b"7\n"}
    members = {"d/a.png": png(), "d/b.seg.png": png(1), "d/c.png": png(2), "d/e.png": png(3), "d/f.png": png(4)}
    members |= {f"d/a.{kind}": data for kind, data in told.items()} | {"d/b.txt": "über\n".encode()}
    members |= {
        "d/c.json": told["json"],
        "d/e.json": b"{broken",
        "d/e.cls": b"cat",
        "d/other.json": b"{}",
        "x.csv": b"1",
    }
    expected = {"a": (7, "of json"), "c": (3, "of json"), "e": (None, None), "f": (None, None)}
    write_tar(tmp_path / "t.tar", members)
    write_zip(tmp_path / "z.zip", members)
    for name, data in members.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    rows = records_of(tmp_path)
    for prefix in ("t.tar!/", "z.zip!/", ""):
        for name, known in expected.items():
            row = rows[f"{prefix}d/{name}.png"]
            assert (row["status"], row["label"], row["caption"]) == ("ok", *known), row["uri"]
    # Up to the first dot in a tar, as webdataset has it; up to the last elsewhere.
    assert [rows[f"{p}d/b.seg.png"]["caption"] for p in ("t.tar!/", "z.zip!/", "")] == ["über", None, None]
    # What tells about a picture is not left out; what tells about none is.
    assert find({"pool": str(tmp_path / "t.tar")}).others == {"csv": 1, "json": 1}
    assert find({"pool": str(tmp_path / "z.zip")}).others == {"csv": 1, "json": 1, "txt": 1}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_labels_of_a_dataset_json(tmp_path: Path, kind: str) -> None:
    labels = {"labels": [["00000/a.png", 6], ["00000/b.png", 2**40], ["b.png", 0]]}
    members = {"00000/a.png": png(), "00000/b.png": png(1), "b.png": png(2)}
    members["dataset.json"] = json.dumps(labels).encode()
    if kind == "folder":
        for name, data in members.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        root = tmp_path
    else:
        root = (write_zip if kind == "zip" else write_tar)(tmp_path / f"a.{kind}", members)
    assert {u: r["label"] for u, r in records_of(root).items()} == {"00000/a.png": 6, "00000/b.png": None, "b.png": 0}
    assert find({"pool": str(root)}).others == {}


@pytest.mark.parametrize("text", [b"{", b'{"labels": null}', b"[]", b'{"labels": [["a.png", [0, 1]]]}', b"\xff"])
def test_a_dataset_json_that_says_something_else(tmp_path: Path, text: bytes) -> None:
    root = write_zip(tmp_path / "a.zip", {"a.png": png(), "dataset.json": text})
    assert [row["label"] for row in records_of(root).values()] == [None]
    assert find({"pool": str(root)}).others == {"json": 1}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_dataset_json_without_end_is_not_read_whole(tmp_path: Path, kind: str) -> None:
    """256 MiB, of which a zip is left with a thousandth."""
    members, root = {"a.png": png(), "dataset.json": b" " * (256 << 20)}, tmp_path
    if kind == "folder":
        for name, data in members.items():
            (tmp_path / name).write_bytes(data)
    else:
        root = write_zip(tmp_path / "a.zip", members)
    del members
    tracemalloc.start()
    found = find({"pool": str(root)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.warnings == ("no label is taken from dataset.json: it is larger than 64 MiB",)
    assert found.others == {"json": 1}
    assert peak < 160 << 20


def test_a_shard_cut_anywhere_gives_its_whole_members_and_a_reason(tmp_path: Path) -> None:
    members = {f"{n}.png": png(n) for n in range(6)}
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        ends = {info.name: info.offset_data + info.size for info in tar}
    (tmp_path / "whole.tar").unlink()
    shard = tmp_path / "shard.tar"
    for cut in (*range(1, max(ends.values()), 777), 512, 1024, 2048, -(-ends["2.png"] // 512) * 512):
        shard.write_bytes(whole[:cut])
        close_archives()
        rows = records_of(tmp_path)
        good = {uri.partition("!/")[2] for uri, row in rows.items() if row["status"] == "ok"}
        assert good == {name for name, end in ends.items() if end <= cut}
        bad = [row["reason"] for row in rows.values() if row["status"] != "ok"]
        assert len(bad) >= 1, cut
        assert all("cut short" in reason or "not a readable" in reason for reason in bad)


def test_members_that_lead_elsewhere_are_refused_as_rows(tmp_path: Path) -> None:
    members: Members = {name: png() for name in ("/abs.png", "../up.png", "a/../../b.png", "C:\\w.png", "ok.png")}
    for name, kind in {"l.png": tarfile.SYMTYPE, "h.png": tarfile.LNKTYPE, "dev": tarfile.CHRTYPE}.items():
        members[name] = tarfile.TarInfo(name)
        members[name].type = kind
        members[name].linkname = "/etc/passwd"
    write_tar(tmp_path / "t.tar", members)
    rows = records_of(tmp_path)
    reasons = {uri.partition("!/")[2]: row["reason"] for uri, row in rows.items()}
    assert set(reasons) == set(members)
    words = {"/abs.png": "absolute", "../up.png": "..", "a/../../b.png": "..", "C:\\w.png": "absolute"}
    words |= {"l.png": "link", "h.png": "link", "dev": "device"}
    for name, word in words.items():
        assert word in reasons[name]
        with pytest.raises(KeyError):
            read_member(str(tmp_path / "t.tar"), name)
    assert reasons["ok.png"] is None
    close_archives()
    link = zipfile.ZipInfo("l.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("/abs.png", png())
    rows = records_of(tmp_path / "z.zip")
    assert [("link" in r["reason"], "absolute" in r["reason"]) for r in rows.values()] == [(False, True), (True, False)]


def test_compressed_tars_and_damaged_ones_are_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar.gz").read_bytes())
    (tmp_path / "c.tgz").write_bytes(b"")
    (tmp_path / "d.tar").write_bytes(b"")
    reasons = {uri: row["reason"] for uri, row in records_of(tmp_path).items()}
    assert sorted(reasons) == ["a.tar.gz", "b.tar", "c.tgz", "d.tar"]
    assert all("decompress it" in reasons[name] for name in ("a.tar.gz", "c.tgz"))
    assert all("not a readable archive" in reasons[name] for name in ("b.tar", "d.tar"))
    with pytest.raises(UserError, match="not a readable archive"):
        find({"pool": str(tmp_path / "b.tar")})


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_member_that_is_larger_than_it_says_is_refused_with_little_memory(tmp_path: Path, method: int) -> None:
    """A bomb: 100 MiB of zeros that are listed as 1,000 bytes."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("bomb.png", bytes(100 << 20))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = data.index(signature) + offset
        data[start : start + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    tracemalloc.start()
    rows = records_of(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "not what the archive's list says" in rows["a.zip!/bomb.png"]["reason"]
    assert peak < 4 << 20


def test_a_member_of_impossible_size_is_a_row_beside_the_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ("a.png", "huge.png", "z.png"):
            archive.writestr(name, png(len(name)))
        archive.getinfo("huge.png").file_size = 2**63
    huge = tarfile.TarInfo("huge.png")
    huge.size = 2**63
    whole = write_tar(tmp_path / "t.tar", {"a.png": png()}).read_bytes()
    (tmp_path / "t.tar").write_bytes(whole.rstrip(b"\0").ljust(1024, b"\0") + huge.tobuf())
    rows = records_of(tmp_path)
    reasons = {uri: row["reason"] for uri, row in rows.items()}
    assert {uri for uri, reason in reasons.items() if reason is None} == {
        "z.zip!/a.png",
        "z.zip!/z.png",
        "t.tar!/a.png",
    }
    assert "a size that no file can have" in reasons["z.zip!/huge.png"]
    assert "a size that no file can have" in reasons["t.tar!/huge.png"]
    with pytest.raises(KeyError):
        read_member(str(tmp_path / "z.zip"), "huge.png")


@pytest.mark.parametrize("outer", ["o.zip", "o.tar"])
def test_archives_inside_archives_are_rows(tmp_path: Path, outer: str) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"a.png": png()}).read_bytes()
    (tmp_path / "inner.zip").unlink()
    names = ["d/i.zip", "i.tar", "i.TGZ", "i.tar.gz", "i.parquet"]
    members = {"a.png": png(), "x.csv": b"1", "__MACOSX/i.zip": inner, **dict.fromkeys(names, inner)}
    path = (write_zip if outer == "o.zip" else write_tar)(tmp_path / outer, members)
    for root, prefix in ((tmp_path, f"{outer}!/"), (path, "")):
        reasons = {uri.removeprefix(prefix): row["reason"] for uri, row in records_of(root).items()}
        assert sorted(reasons) == sorted(["a.png", *names])
        assert reasons.pop("a.png") is None
        assert all("an archive inside an archive" in reason for reason in reasons.values())
        assert find({"pool": str(root)}).others == {"csv": 1}


def test_a_zip_member_with_wrong_bytes_is_a_row(tmp_path: Path) -> None:
    data = png()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", data)
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[raw.index(data) + len(data) // 2] ^= 1
    (tmp_path / "a.zip").write_bytes(raw)
    assert "CRC-32" in records_of(tmp_path)["a.zip!/a.png"]["reason"]
    for count in (-1, len(data)):
        with pytest.raises(zipfile.BadZipFile, match="CRC-32"):
            read_member(str(tmp_path / "a.zip"), "a.png", count)
    assert read_member(str(tmp_path / "a.zip"), "a.png", len(data) - 1) == raw[raw.index(data[:8]) :][: len(data) - 1]


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_threads_and_forked_processes_read_at_once(tmp_path: Path, name: str) -> None:
    members = {f"{n}.bin": os.urandom(3000) for n in range(60)}
    path = str((write_tar if name == "a.tar" else write_zip)(tmp_path / name, members))

    def read(step: int) -> bool:
        return all(read_member(path, f"{k * step % 60}.bin") == members[f"{k * step % 60}.bin"] for k in range(400))

    read_member(path, "0.bin")
    assert good_at_once(read, threads=(1, 13, 17), processes=(7, 11))


def test_a_tar_is_listed_twice_at_most_however_many_others_are_read(tmp_path: Path, monkeypatch) -> None:
    """Once to find what is there, and never again: shards are read in any order when training."""
    listed = []
    real = archives._list_tar
    monkeypatch.setattr(archives, "_list_tar", lambda file, name: listed.append(name) or real(file, name))
    monkeypatch.setattr(archives, "_MAX_OPEN", 2)
    for shard in range(5):
        write_tar(tmp_path / f"{shard}.tar", {"a.png": png(shard)})
    roots = {"pool": str(tmp_path)}
    find(roots)
    for _ in range(3):
        for shard in range(5):
            assert read_bytes(f"{shard}.tar!/a.png", roots) == png(shard)
    assert sorted(listed) == [f"{shard}.tar" for shard in range(5)]


def test_of_members_with_one_name_the_last_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for number in range(3):
            info = tarfile.TarInfo("a.png")
            info.size = len(png(number))
            tar.addfile(info, io.BytesIO(png(number)))
    rows = records_of(tmp_path)
    assert {uri: row["status"] for uri, row in rows.items()} == {
        "t.tar!/a.png": "ok",
        "t.tar!/a.png#1": "unreadable",
        "t.tar!/a.png#2": "unreadable",
    }
    assert read_bytes("t.tar!/a.png", {"pool": str(tmp_path)}) == png(2)
    assert "later member" in rows["t.tar!/a.png#1"]["reason"]
