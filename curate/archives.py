"""Zip and tar archives: listed once, then each member is read where it lies.

What is kept of an archive is 40 bytes a member: where each lies, found by a hash of its name. Members are read at their
position in the file, so threads and forked processes share archives without locks and without disturbing each other.
"""

import errno
import hashlib
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from . import files
from .files import File, identity_of, open_file
from .processes import untimed

_MAX_OPEN = 32  # archives at a time; what was listed of the others is kept

_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_ZIP_HEADER = 30  # bytes of a member's own header before its name
_NOTHING = np.array([], dtype=np.uint64)


_Place = tuple[int, int, int, int, int]
"""Offset in the file, size, size as packed, zip method (-1: a tar's bytes, as they are), CRC-32."""

_NOWHERE: _Place = (0, 0, 0, 0, 0)


@dataclass(slots=True)
class Listing:
    """The names in an archive, in its order, without folders. problems: why the member with this number is refused.

    An archive that is cut short ends with a name that is its own, and the problem.
    """

    names: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    places: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, name: str, problem: str | None, place: _Place) -> None:
        name = name.removeprefix("./")
        problem = problem or _problem_of_name(name)
        try:
            packed = array("q", place)
        except OverflowError:
            packed, problem = array("q", _NOWHERE), "the archive lists it with a size that no file can have"
        if problem:
            self.problems[len(self.names)] = problem
        self.names.append(name)
        self.places.extend(packed)


@dataclass(frozen=True, slots=True)
class Index:
    """Where members lie: hashes (N,) of the names, ascending; places (N, 5) as _Place."""

    hashes: NDArray[np.uint64]
    places: NDArray[np.int64]

    def __contains__(self, name: str) -> bool:
        return self._row(name) is not None

    def place(self, name: str) -> _Place:
        row = self._row(name)
        if row is None:
            raise KeyError(f"the archive has no member {name!r} that can be read")
        offset, size, packed, method, crc = self.places[row].tolist()
        return offset, size, packed, method, crc

    def _row(self, name: str) -> int | None:
        """Of members with one name, the last."""
        wanted = _hash(name)
        row = int(self.hashes.searchsorted(wanted, side="right")) - 1
        return row if row >= 0 and self.hashes[row] == wanted else None


_Key = tuple[str, int, int]
_files: OrderedDict[_Key, File] = OrderedDict()
_indices: dict[_Key, Index] = {}
_lock, _listing = threading.Lock(), threading.Lock()


def members(archive: str) -> Listing:
    """What the archive at this path lists. Of members with one name only the last can be read.

    Raises what reading raises: OSError, zipfile.BadZipFile, tarfile.TarError.
    """
    key, file = _opened(archive)
    listing = _list(file, archive)
    hashes = _hashes(listing)
    _indices[key] = index = _index(listing, hashes)
    if len(np.unique(hashes)) < len(hashes):
        for row, name in enumerate(listing.names):
            if row not in listing.problems and index.place(name)[0] != listing.places[5 * row]:
                listing.problems[row] = "a later member of the archive has the same name"
    return listing


def index_of(archive: str) -> Index:
    """Where the members of the archive at this path lie. Errors as members."""
    return _indexed(*_opened(archive), archive)


def read_member(archive: str, member: str, count: int = -1) -> bytes:
    """The first ``count`` bytes, or all, of a member of the archive at this path.

    Raises OSError (EFBIG above MAX_BYTES), zipfile.BadZipFile, tarfile.TarError, KeyError for a missing member.
    """
    key, file = _opened(archive)
    offset, size, packed, method, crc = _indexed(key, file, archive).place(member)
    if count < 0 and size > files.MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    wanted = size if count < 0 else min(size, count)
    if method < 0:
        return _exactly(file, offset, wanted)
    data = _unzip(file, offset, wanted, packed, method)
    if wanted < size:
        return data[:wanted]
    if len(data) != size or zlib.crc32(data) != crc:
        raise zipfile.BadZipFile("its bytes are not what the archive's list says (length or CRC-32)")
    return data


def close_archives() -> None:
    """Close every archive that reading has left open. They are opened again when needed."""
    with _lock:
        _files.clear()
        _indices.clear()


def _forget_locks() -> None:
    """A forked process may have been made while another thread held one."""
    global _lock, _listing
    _lock, _listing = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_forget_locks)


def _opened(archive: str) -> tuple[_Key, File]:
    """The archive's file, from the most recently used ones: the last to use one that was dropped closes it."""
    key = (archive, *identity_of(archive))
    with _lock:
        file = _files.get(key)
        if file is None:
            file = _files[key] = open_file(archive)
            if len(_files) > _MAX_OPEN:
                _files.popitem(last=False)
        _files.move_to_end(key)
    return key, file


def _indexed(key: _Key, file: File, archive: str) -> Index:
    index = _indices.get(key)
    if index is None:
        with _listing:  # of threads that come at the same time one lists, and the others wait
            index = _indices.get(key)
            if index is None:
                with untimed():
                    listing = _list(file, archive)
                index = _indices[key] = _index(listing, _hashes(listing))
    return index


def _list(file: File, archive: str) -> Listing:
    return _list_zip(file) if archive.lower().endswith(".zip") else _list_tar(file, archive.rpartition("/")[2])


def _list_zip(file: File) -> Listing:
    listing = Listing()
    with file.stream() as stream, zipfile.ZipFile(stream) as zipped:
        for info in zipped.infolist():
            if not info.is_dir():
                place = (info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC)
                listing.add(info.filename, _problem_in_zip(info), place)
    return listing


def _problem_in_zip(info: zipfile.ZipInfo) -> str | None:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link inside an archive: put the picture itself there"
    if info.flag_bits & 1:
        return "it is encrypted: unpack the archive"
    if info.compress_type not in (_STORED, _DEFLATED):
        return f"it is compressed by zip method {info.compress_type}: pack it again with deflate, or without"
    return None


def _list_tar(file: File, own_name: str) -> Listing:
    """Members up to where the archive ends or breaks."""
    listing = Listing()
    with file.stream() as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
        try:
            while info := packed.next():
                packed.members = []  # type: ignore[attr-defined]  # it would keep everything it has seen
                if not info.isdir():
                    place = (info.offset_data, info.size, info.size, -1, 0)
                    listing.add(info.name, _problem_in_tar(info), place)
            why = "" if _ends_well(file, packed.offset) else "no end mark"
        except (tarfile.TarError, OSError, MemoryError, ValueError, OverflowError) as error:
            why = str(error)
    if why:
        problem = f"the archive is cut short or damaged after {len(listing.names):,} members ({why})"
        listing.add(own_name, problem, _NOWHERE)
    return listing


def _ends_well(file: File, offset: int) -> bool:
    """Whether there are zeros at the offset, which end a tar: without them tarfile stops without a word."""
    block = file.read_at(offset, tarfile.BLOCKSIZE)
    return bool(block) and not block.strip(b"\0")


def _problem_in_tar(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "it is a link inside an archive: put the picture itself there"
    if not info.isreg() or info.issparse():
        return "it is a device, a pipe or a sparse file inside an archive"
    return None


def _problem_of_name(name: str) -> str | None:
    """Names that would lead out of the archive's folder. Nothing is unpacked here, but other programs may do it."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "its name in the archive is an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "its name in the archive has .. in it"
    return None


def _hashes(listing: Listing) -> NDArray[np.uint64]:
    return np.fromiter(map(_hash, listing.names), np.uint64, len(listing.names))


def _index(listing: Listing, hashes: NDArray[np.uint64]) -> Index:
    """Of the members that can be read."""
    good = np.ones(len(hashes), dtype=bool)
    good[list(listing.problems)] = False
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    places = np.frombuffer(listing.places, np.int64).reshape(-1, 5) if len(hashes) else np.zeros((0, 5), np.int64)
    return Index(hashes[rows] if len(rows) else _NOTHING, places[rows])


def _hash(name: str) -> np.uint64:
    data = name.encode("utf-8", "surrogateescape")
    return np.uint64(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))


def _unzip(file: File, offset: int, wanted: int, packed: int, method: int) -> bytes:
    """The first ``wanted`` bytes of a member of a zip archive, and up to one more, so that a longer one is seen.

    Neither what is read nor what it becomes is much larger: no bomb goes off.
    """
    header = _exactly(file, offset, _ZIP_HEADER)
    if header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile("there is no member where the archive's list says")
    start = offset + _ZIP_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    data = _exactly(file, start, min(packed, wanted + wanted // 8 + 1024))  # deflate adds an eighth at the very worst
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, wanted + 1) if method == _DEFLATED else data


def _exactly(file: File, offset: int, count: int) -> bytes:
    data = file.read_at(offset, count)
    if len(data) != count:
        raise OSError(errno.EIO, "the archive is cut short")
    return data
