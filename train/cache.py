"""The file of decoded pictures, which runs share: written once, by one process, whole or not at all."""

import hashlib
import io
import math
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..curate.images import U8, decode, fit
from ..curate.whole import PARTIAL, UnwritableError, replacing, writing
from ..schemas.errors import UserError
from ..schemas.space import Space
from .rows import Rows
from .together import Work
from .world import World

_DISK_SHARE = 0.8  # of the free disk that the cache may take
_ABANDONED_S = 3600  # that nobody has written to a part of a cache: its run was killed
_LATE_S = 120  # in which every host sees a new file: NFS may remember for a minute that there was none


def cache_folder() -> Path:
    """Where what can be made again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ambient"


def cache_path(rows: Rows) -> Path:
    """Named after pictures and Space, so that manifests that differ in thresholds only share it.

    And after what the code makes of a picture, so that pixels that other code has made are not taken for today's.
    """
    key = hashlib.blake2b(str(rows.space).encode(), digest_size=16)
    key.update(_preprocessed(rows.space).tobytes())
    key.update(rows.names.numpy().tobytes())
    return cache_folder() / f"{key.hexdigest()}.u8"


def _preprocessed(space: Space) -> U8:
    """A transparent picture of all values that lies on its side, decoded and fitted: nearly every step shows in it."""
    values = (np.arange(61 * 83 * 4) * 7919 % 256).astype(np.uint8).reshape(61, 83, 4)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the orientation: turned by 90 degrees
    Image.fromarray(values).save(file, "png", exif=exif)
    return fit(decode(file.getvalue()).pixels, space)


def cache_room(rows: Rows, num_bytes: int) -> float:
    """Bytes that the file may take: no end of them if it is there already, none where no home folder can be read."""
    try:
        if _has_size(cache_path(rows), num_bytes):
            return math.inf
        folder = cache_folder()
        while not folder.exists():
            folder = folder.parent
        return _DISK_SHARE * shutil.disk_usage(folder).free
    except (OSError, RuntimeError):
        return 0.0


def writers(path: Path, world: World) -> list[int]:
    """For each rank the first one that sees its folder of path: on its host, or on any where hosts share it.

    Every rank must call. A process that cannot write to the folder is on its own.
    """
    if world.size == 1:
        return [0]
    token = int(world.gather(torch.tensor(secrets.randbits(62)))[0])
    signs = [path.with_name(f"{path.name}.{token:x}-{rank}{PARTIAL}") for rank in range(world.rank + 1)]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        signs[-1].touch()
    world.gather(torch.zeros(1))  # all signs are there
    first = next((rank for rank, sign in enumerate(signs) if sign.exists()), world.rank)
    found: list[int] = world.gather(torch.tensor(first)).tolist()  # and all have looked
    with suppress(OSError):
        signs[-1].unlink()
    return found


def written(
    path: Path,
    shape: tuple[int, ...],
    pictures: Iterable[U8],
    sample: Iterable[tuple[int, U8]],
    say: Callable[[str], None],
) -> Work:
    """Write the pictures to path, unless they are there.

    shape: (N, C, R, R). sample: some rows and their pictures as they are decoded today, which those at path must be.
    """
    if path.exists():
        if _has_size(path, math.prod(shape)) and _holds(opened(path, shape), sample, path, say):
            return
        say(f"{path} does not hold these pictures as they are decoded today: they are decoded again")
        with writing(path):
            path.unlink(missing_ok=True)  # the disk may have no room for both
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{path.name}.*{PARTIAL}"):
            with suppress(FileNotFoundError):  # finished by another process in this moment
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()
    # Of a process's own, and not mapped, which would end the program where the disk is full.
    name = f"{path.name}.{uuid.uuid4().hex}{PARTIAL}"
    with replacing(path, name=name) as partial, partial.open("wb") as file:
        for picture in pictures:
            file.write(picture.tobytes())
            yield


def arrived(path: Path, num_bytes: int) -> Work:
    """Wait until this host sees the file that another one has written."""
    end = time.monotonic() + _LATE_S
    while not _has_size(path, num_bytes):
        if time.monotonic() > end:
            raise UnwritableError(f"{path} is not to be seen by every process: set XDG_CACHE_HOME to a shared folder")
        time.sleep(0.1)
        yield


def opened(path: Path, shape: tuple[int, ...]) -> U8:
    """The memory-mapped pixels at path. Copy-on-write, for torch wants memory that may be written. Raises UserError."""
    try:
        return np.memmap(path, dtype=np.uint8, mode="c", shape=shape)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}): remove it, or set XDG_CACHE_HOME") from error


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.exists() and path.stat().st_size == num_bytes


def _holds(pixels: U8, sample: Iterable[tuple[int, U8]], path: Path, say: Callable[[str], None]) -> bool:
    """Whether the sampled rows are in the file. It is said where there is none to compare."""
    same = [np.array_equal(pixels[row], picture) for row, picture in sample]
    if not same:
        say(f"{path} is taken as it is: no picture can be read to compare with it")
    return all(same)
