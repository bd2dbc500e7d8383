import errno
import itertools
import os
import zipfile
from pathlib import Path

import pytest
from ambient.curate import archives, files
from ambient.curate.uris import close_archives, make_uri, read_bytes, split_uri
from shards import good_at_once, write_zip


def test_uris_are_unique_and_lead_back(tmp_path):
    (tmp_path / "root.zip").write_bytes(b"")
    roots = {"pool": str(tmp_path), "extra": str(tmp_path / "x"), "packed": str(tmp_path / "root.zip")}
    parts = ["a.png", "a.zip", "a.zip!", "a.zip!!", "a.ZIP!", "pool:a", "extra:a", "packed:a", "other:a", ":", "!"]
    files = ["/".join(p) for n in (1, 2) for p in itertools.product(parts, repeat=n)]
    members = ["a.png", "/a.png", "b.zip!/c", "b.zip!!/c", "pool:x"]
    seen = {}
    for root in ("pool", "extra"):
        for path, member in [(f, None) for f in files] + [("a.zip", m) for m in members]:
            uri = make_uri(path, member, root=root, roots=roots)
            assert split_uri(uri, roots) == (roots[root], path, member)
            assert seen.setdefault(uri, (root, path, member)) == (root, path, member)
    for path in files:
        uri = make_uri(path, root="packed", roots=roots)
        assert split_uri(uri, roots) == (roots["packed"], "", path)
        assert seen.setdefault(uri, ("packed", path, None)) == ("packed", path, None)


def test_plain_uris_read_as_paths(tmp_path):
    roots = {"pool": str(tmp_path)}
    assert make_uri("cats/a.png", roots=roots) == "cats/a.png"
    assert make_uri("cats/s.zip", "d/a.png", roots=roots) == "cats/s.zip!/d/a.png"
    assert make_uri("b:c.png", roots=roots) == "b:c.png"


def numbered(count, salt=b""):
    return {f"{i}.bin": salt + str(i).encode() * 500 for i in range(count)}


def test_threads_share_archives(tmp_path):
    for n in range(4):
        write_zip(tmp_path / f"{n}.zip", numbered(50, str(n).encode()))
    roots = {"pool": str(tmp_path)}

    def read(step):
        places = [((k * step) % 4, (k * step * 7) % 50) for k in range(200)]
        return all(read_bytes(f"{n}.zip!/{i}.bin", roots) == f"{n}{f'{i}' * 500}".encode() for n, i in places)

    assert good_at_once(read, threads=(1, 3, 5, 7))


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_archives_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_OPEN", 2)
    for n in range(5):
        write_zip(tmp_path / f"{n}.zip", numbered(1))
    before = open_files()
    for n in (0, 1, 2, 3, 4, 0):
        assert read_bytes(f"{n}.zip!/0.bin", {"pool": str(tmp_path)})
    assert open_files() == before + 2
    close_archives()
    assert open_files() == before


def test_an_archive_is_parsed_once(tmp_path, monkeypatch):
    write_zip(tmp_path / "a.zip", numbered(20))
    opened = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *arguments: opened.append(1) or real(*arguments))
    for i in range(20):
        read_bytes(f"a.zip!/{i}.bin", {"pool": str(tmp_path)})
    assert opened == [1]
    write_zip(tmp_path / "a.zip", numbered(3, b"new"))
    assert read_bytes("a.zip!/1.bin", {"pool": str(tmp_path)}).startswith(b"new1")


def test_what_cannot_be_read_raises(tmp_path, monkeypatch):
    write_zip(tmp_path / "a.zip", numbered(1))
    (tmp_path / "b.zip").write_bytes(b"nothing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_bytes(bytes(2000))
    roots = {"pool": str(tmp_path)}
    with pytest.raises(KeyError):
        read_bytes("a.zip!/none", roots)
    with pytest.raises(zipfile.BadZipFile):
        read_bytes("b.zip!/none", roots)
    with pytest.raises(FileNotFoundError):
        read_bytes("c.zip!/none", roots)
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes("pipe", roots)
    with pytest.raises(IsADirectoryError):
        read_bytes("", roots)
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    for uri in ("big", "a.zip!/0.bin"):
        write_zip(tmp_path / "a.zip", numbered(1, bytes(1000)))
        with pytest.raises(OSError, match="too large") as caught:
            read_bytes(uri, roots)
        assert caught.value.errno == errno.EFBIG
