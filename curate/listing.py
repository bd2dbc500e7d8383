"""List what a folder or an archive holds: pictures by name or first bytes, and what tells about them."""

import codecs
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from ..schemas.errors import UserError
from .archives import index_of, members, read_member
from .aside import Aside, shortened
from .beside import EXTENSIONS, LABELS_FILE, LABELS_MAX_BYTES, Known, as_label, find_beside, labels_from, stem_of
from .files import open_file, read_file
from .images import unusable
from .parquet import name_of, open_table
from .remote import walk
from .uris import LIST, in_list, names_archive

PICTURE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "webp", "bmp", "dib", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx"}
    | {"ico", "qoi", "pcx", "sgi", "tga", "heic", "heif", "jxl"}
)
"""For any other extension the first bytes decide. A format among these that cannot be read is a row that says so."""

_START = 16  # bytes that tell a picture
_HIDDEN = {"__MACOSX", "Thumbs.db", "desktop.ini"}

_NESTED = "an archive inside an archive is not looked into: unpack the outer one"
PACKED_TARS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """path: of a file, relative to the root; in a root that is an archive, of the member. Others as in Candidate."""

    path: str
    member: str | None = None
    problem: str | None = None
    label: int | None = None
    caption: str | None = None
    beside: str = ""


def list_folder(root: str, aside: Aside) -> Iterator[Entry]:
    """Pictures below a folder. Linked folders come after all others, so that a folder keeps its own name.

    aside: where all else is counted.
    """
    labels = _labels(partial(read_file, f"{root}/{LABELS_FILE}"), aside)
    folders, links, entered = [""], list[str](), set[tuple[int, int]]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(f"{root}/{folder}")  # noqa: PTH116 (called once per folder: must be fast)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(f"{root}/{folder}") as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            yield Entry(path=folder, problem=f"the folder cannot be listed: {error.strerror}")
            continue
        names = {child.name for child in children}
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            if _is_hidden(child.name):
                aside.hidden += 1
                continue
            if _is_folder(child):
                (links if child.is_symlink() else folders).append(path)
            elif names_archive(path) and _is_regular(child):
                yield from list_file(f"{root}/{path}", path, aside)
            elif path.lower().endswith(PACKED_TARS):
                yield _packed_tar(path)
            elif _is_picture(path, child, aside):
                beside = find_beside(child.name, names.__contains__, first_dot=False)
                _uncount(beside, aside)
                yield Entry(path=path, label=labels.get(path), beside=beside)
    if labels:
        aside.files["json"] -= 1


def list_remote(url: str, aside: Aside) -> Iterator[Entry]:
    """Pictures below a folder that lies elsewhere. aside: as in list_folder."""
    labels = _labels(partial(read_file, f"{url}/{LABELS_FILE}"), aside)
    for folder, names in walk(url):
        for name in sorted(names):
            path = f"{folder}/{name}" if folder else name
            if any(_is_hidden(part) for part in path.split("/")):
                aside.hidden += 1
                continue
            if names_archive(path):
                yield from list_file(f"{url}/{path}", path, aside)
            elif path.lower().endswith(PACKED_TARS):
                yield _packed_tar(path)
            elif _looks_like_picture(name, partial(read_file, f"{url}/{path}", _START)):
                beside = find_beside(name, names.__contains__, first_dot=False)
                _uncount(beside, aside)
                yield Entry(path=path, label=labels.get(path), beside=beside)
            else:
                aside.files[readable(_extension(name))] += 1
    if labels:
        aside.files["json"] -= 1


def list_file(file: str, path: str, aside: Aside) -> Iterator[Entry]:
    """Pictures in an archive, a Parquet file or a list. path: relative to the root, or "" when it is the root.

    aside: as in list_folder. Raises UserError where the root cannot be read.
    """
    kind = _extension(file)
    which = {"parquet": _list_parquet, LIST[1:]: _list_text}.get(kind, _list_archive)
    try:
        yield from which(file, path, aside)
    except _Unreadable as error:
        why = unusable(error.reason).reason
        problem = f"not a readable {'Parquet file' if kind == 'parquet' else 'archive'} ({why})"
        if not path:
            raise UserError(f"{file} is {problem}") from error.reason
        yield Entry(path=path, problem=problem)


class _Unreadable(Exception):  # noqa: N818 (it carries the error)
    def __init__(self, reason: Exception) -> None:
        self.reason = reason


def _list_parquet(file: str, path: str, aside: Aside) -> Iterator[Entry]:
    """Rows with pictures, or what is listed where the file is the root; another table is no picture."""
    try:
        table = open_table(file)
    except Exception as error:
        raise _Unreadable(error) from error
    if table.columns.image:
        if table.columns.unused:
            mine = table.columns.image.removesuffix(".bytes")
            aside.note(f"pictures are those of column {mine}, not of {', '.join(table.columns.unused)}")
        for row, (label, caption) in enumerate(table.known(aside.look_at_label)):
            where, inside = (path, name_of(row)) if path else (name_of(row), None)
            yield Entry(path=where, member=inside, label=label, caption=caption)
    elif path:
        aside.files["parquet"] += 1
    elif table.columns.path:
        yield from _listed(file, table.paths(aside.look_at_label), aside)
    else:
        raise UserError(f"{file} has neither a column of pictures (struct<bytes, path>) nor one of paths, such as path")


def _list_text(file: str, _path: str, aside: Aside) -> Iterator[Entry]:
    with open_file(file).stream() as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            stream.seek(0)
        lines = (os.fsdecode(line).rstrip("\r\n") for line in stream)
        yield from _listed(file, ((line, (None, None)) for line in lines if line), aside)


def _listed(file: str, paths: Iterable[tuple[str | None, Known]], aside: Aside) -> Iterator[Entry]:
    """What a list names: pictures, and archives with all that they hold."""
    seen = set[int]()
    for number, (path, (label, caption)) in enumerate(paths, 1):
        if not path:
            yield Entry(path=f"entry {number}", problem="the list has no path here")
        elif hash(path) in seen:
            yield Entry(path=path, problem="the list names it twice")
        elif names_archive(path):
            yield from list_file(in_list(file, path), path, aside)
        else:
            yield Entry(path=path, label=label, caption=caption)
        seen.add(hash(path))


def _list_archive(archive: str, path: str, aside: Aside) -> Iterator[Entry]:
    """Pictures in a zip or tar archive."""
    try:
        listed, index = members(archive), index_of(archive)
    except Exception as error:
        raise _Unreadable(error) from error
    labels, first_dot = _labels(partial(read_member, archive, LABELS_FILE), aside), archive.lower().endswith(".tar")
    any_beside = any(_extension(name) in EXTENSIONS for name in listed.names)
    for number, name in enumerate(listed.names):
        if any(map(_is_hidden, name.split("/"))):
            aside.hidden += 1
            continue
        where, inside = (path, name) if path else (name, None)
        if names_archive(name) or name.lower().endswith(PACKED_TARS):
            yield Entry(path=where, member=inside, problem=listed.problems.get(number, _NESTED))
            continue
        unseen = number in listed.problems and name not in index and _extension(name) not in EXTENSIONS
        if not unseen and not _looks_like_picture(name, partial(read_member, archive, name, _START)):
            aside.files[readable(_extension(name))] += 1
            continue
        if first_dot and not unseen and _is_second(name, index.__contains__):
            aside.files[readable(name.rpartition("/")[2].partition(".")[2].lower())] += 1
            continue
        beside = find_beside(name, index.__contains__, first_dot=first_dot) if any_beside else ""
        _uncount(beside, aside)
        refused = listed.problems.get(number)
        yield Entry(path=where, member=inside, problem=refused, label=labels.get(name), beside=beside)
    if labels:
        aside.files["json"] -= 1


def _is_second(name: str, exists: Callable[[str], bool]) -> bool:
    """Whether a picture is another part of a webdataset sample, as a.seg.png is of a.jpg: a mask, say."""
    if "." not in name.rpartition("/")[2].partition(".")[2]:
        return False
    stem = stem_of(name, first_dot=True)
    return any(exists(f"{stem}.{extension}") for extension in PICTURE_EXTENSIONS)


def readable(name: str) -> str:
    """A name without the bytes that are not valid UTF-8: each is written as ``\\xNN``."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _packed_tar(path: str) -> Entry:
    return Entry(path=path, problem="members of a compressed tar cannot be found without unpacking it: decompress it")


def _labels(read: Callable[[int], bytes], aside: Aside) -> dict[str, int]:
    """Of a ``dataset.json``, or none where there is no such file or it says something else, which is noted.

    read: its first bytes.
    """
    try:
        text = read(LABELS_MAX_BYTES + 1)
    except Exception:  # noqa: BLE001 (nearly always that there is none; each kind of storage raises its own)
        return {}
    try:
        told = labels_from(text)
    except ValueError as error:
        aside.note(f"no label is taken from {LABELS_FILE}: {shortened(str(error))}")
        return {}
    for value in told.values():
        aside.look_at_label(value, LABELS_FILE)
    labels = {name: as_label(value) for name, value in told.items()}
    return {name: label for name, label in labels.items() if label is not None}


def _uncount(beside: str, aside: Aside) -> None:
    """A file that tells about a picture is not left out."""
    for extension in beside.split():
        aside.files[extension] -= 1


def _looks_like_picture(name: str, read: Callable[[], bytes]) -> bool:
    """By its extension, or by its first bytes."""
    extension = _extension(name)
    if extension in PICTURE_EXTENSIONS or extension in EXTENSIONS:
        return extension in PICTURE_EXTENSIONS
    return _starts_like_picture(read)


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name in _HIDDEN


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _is_regular(child: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(child.stat().st_mode)
    except OSError:
        return False


def _is_picture(path: str, child: os.DirEntry[str], aside: Aside) -> bool:
    """By extension, whatever the entry is, or by the first bytes of a regular file; what is neither is counted."""
    extension = _extension(path)
    if extension in PICTURE_EXTENSIONS:
        return True
    if (
        extension not in EXTENSIONS
        and _is_regular(child)
        and _starts_like_picture(partial(read_file, child.path, _START))
    ):
        return True
    aside.files[readable(extension)] += 1
    return False


def _extension(path: str) -> str:
    """Lower case, without the dot; of a name that begins with its only dot, none."""
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if dot and stem.strip(".") else ""


def _starts_like_picture(read: Callable[[], bytes]) -> bool:
    """Whether the first bytes are those of JPEG, PNG, GIF, BMP, TIFF or WebP."""
    try:
        start = read()
    except Exception:  # noqa: BLE001 (what cannot be read does not look like a picture)
        return False
    magic = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)  # its reserved field is zero
    return start.startswith(magic) or bitmap or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
