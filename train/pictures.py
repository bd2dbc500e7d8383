"""The decoded pictures: on the training device, in a memory-mapped file, or decoded when they are drawn."""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ..curate.images import U8, Unusable, decode, fit, unusable
from ..curate.parallel import map_in_order
from ..curate.pool import content_id
from ..curate.remote import is_remote
from ..curate.units import to_unit
from ..curate.uris import encoded
from ..curate.whole import PARTIAL, replacing, writing
from ..schemas.errors import UserError
from .batches import Batch
from .rows import Rows

Place = Literal["auto", "device", "cache", "stream"]

_DEVICE_SHARE = 0.5  # of the free memory that the pictures may take: the rest is for the network
_DISK_SHARE = 0.8  # of the free disk that the cache may take
_REPORT_EVERY = 1000
_ABANDONED_S = 3600  # that nobody has written to a part of a cache: its run was killed


class Pictures(Protocol):
    """Where pictures come from."""

    @property
    def device(self) -> torch.device:
        """Where ``gather`` wants row numbers and returns pictures."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """rows: (B,) int64. Returns (B, C, R, R): uint8 pixels, or float latents."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """pixels: (N, C, R, R) uint8 in the memory of a device, or in a memory-mapped file."""

    pixels: Tensor

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def gather(self, rows: Tensor) -> Tensor:
        return self.pixels[rows]


class Streamed:
    """Pictures decoded when they are drawn, by threads."""

    def __init__(self, rows: Rows, workers: int) -> None:
        self.device = torch.device("cpu")
        self._rows = rows
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="ambient")

    def gather(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(list(self._pool.map(lambda row: load_row(self._rows, row), rows.tolist()))))


def open_pictures(
    rows: Rows,
    device: torch.device,
    *,
    place: Place = "auto",
    workers: int = 2,
    say: Callable[[str], None] = lambda _: None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Pictures:
    """Have the pictures of all rows at hand, on the device if they fit there, and say where they are.

    workers: threads that decode. say: told where the pictures live. report: called with (pictures read, of how many).
    Raises UserError where a picture cannot be read or is not the annotated one any more (its content id is compared),
    and where there is no room for the place asked for.
    """
    check_readable(rows)
    num_bytes = len(rows) * int(np.prod(rows.space.shape))
    side, channels = rows.space.resolution, rows.space.channels
    what = f"{len(rows):,} pictures of {side}x{side}x{channels} ({_size(num_bytes)})"
    chosen = _choose(place, num_bytes, rows, device)
    if chosen == "device":
        say(f"{what} in the memory of {device}")
        pixels = np.empty((len(rows), *rows.space.shape), dtype=np.uint8)
        for row, picture in enumerate(_decoded(rows, workers, report)):
            pixels[row] = picture
        return Stored(pixels=torch.from_numpy(pixels).to(device))
    if chosen == "cache":
        path = _cache_path(rows)
        say(f"{what} in the cache {path}")
        return Stored(pixels=torch.from_numpy(_cached(path, rows, workers, report)))
    say(f"{what} are decoded when they are drawn, by {workers} threads")
    return Streamed(rows, workers)


def check_readable(rows: Rows) -> None:
    """Raise UserError where there is nothing to decode."""
    if rows.space.kind == "latent":
        raise UserError(f"the manifest is annotated in {rows.space}: only pictures can be read yet, not latents")


def with_pictures(stream: Iterator[Batch], pictures: Pictures, device: torch.device) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its pictures w_0, (B, C, R, R) float32 in the units of the space, on the device.

    Pictures that are not on the device are gathered ahead, while the steps before run; those that are stored there are
    not, for on a CPU a second thread of PyTorch's would be in the way of the first.
    """
    if isinstance(pictures, Stored) and pictures.device.type == device.type:
        for batch in stream:
            yield batch, _unit(pictures.gather(batch.rows))
        return

    def fetch(batch: Batch) -> tuple[Batch, Tensor]:
        gathered = pictures.gather(batch.rows)
        return batch, gathered.pin_memory() if device.type == "cuda" else gathered

    for batch, gathered in map_in_order(fetch, stream, workers=1):
        yield batch, _unit(gathered.to(device, non_blocking=True))


def _unit(pictures: Tensor) -> Tensor:
    return to_unit(pictures) if pictures.dtype == torch.uint8 else pictures.float()


def _choose(place: Place, num_bytes: int, rows: Rows, device: torch.device) -> Place:
    """The place asked for if there is room, or the first with room. Raises UserError."""

    def room(name: Place) -> float:
        if name == "device":
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory()
            return _DEVICE_SHARE * free
        return _cache_room(rows) if name == "cache" else math.inf

    if place == "auto":
        places: tuple[Place, ...] = ("device", "cache", "stream")
        return next(name for name in places if num_bytes <= room(name))
    if num_bytes > room(place):
        raise UserError(
            f"the decoded pictures take {_size(num_bytes)}, and {_size(room(place))} are free for them with "
            f"pictures={place}: leave that out to have a place chosen, or train at a lower resolution"
        )
    return place


def _cache_room(rows: Rows) -> float:
    """Bytes that the cache may take: no end of them if it is there already, none where no home folder can be read."""
    try:
        if _cache_path(rows).exists():
            return math.inf
        folder = cache_folder()
        while not folder.exists():
            folder = folder.parent
        return _DISK_SHARE * shutil.disk_usage(folder).free
    except (OSError, RuntimeError):
        return 0.0


def _decoded(rows: Rows, workers: int, report: Callable[[int, int], None]) -> Iterator[U8]:
    """Each row's picture in turn."""
    for row, picture in enumerate(map_in_order(lambda row: load_row(rows, row), range(len(rows)), workers=workers)):
        yield picture
        if (row + 1) % _REPORT_EVERY == 0:
            report(row + 1, len(rows))


def _cached(path: Path, rows: Rows, workers: int, report: Callable[[int, int], None]) -> U8:
    """The memory-mapped pixels at path, decoded first if they are not there, whole."""
    shape = (len(rows), *rows.space.shape)
    if not path.exists() or path.stat().st_size != math.prod(shape):
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f"{path.name}.*{PARTIAL}"):
                with suppress(FileNotFoundError):  # finished by another process in this moment
                    if time.time() - left.stat().st_mtime > _ABANDONED_S:
                        left.unlink()
        # Of a process's own, and not mapped, which would end the program where the disk is full.
        name = f"{path.name}.{os.getpid()}{PARTIAL}"
        with replacing(path, name=name) as partial, partial.open("wb") as file:
            for picture in _decoded(rows, workers, report):
                file.write(picture.tobytes())
    # Copy-on-write, for torch wants memory that may be written.
    return np.memmap(path, dtype=np.uint8, mode="c", shape=shape)


def _cache_path(rows: Rows) -> Path:
    """Named after pictures and Space, so that manifests that differ in thresholds only share it."""
    key = hashlib.blake2b(str(rows.space).encode(), digest_size=16)
    key.update(rows.names.numpy().tobytes())
    return cache_folder() / f"{key.hexdigest()}.u8"


def cache_folder() -> Path:
    """Where what can be made again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ambient"


def load_row(rows: Rows, row: int) -> U8:
    """The picture of a row in the Space. Raises UserError where its bytes cannot be used or are not the annotated."""
    picture: U8 | Unusable
    try:
        with encoded(rows.uri(row), rows.roots) as data:
            if content_id(data) != rows.ids[row].as_py():
                picture = Unusable("unreadable", "its content is not what was annotated")
            else:
                picture = fit(decode(data).pixels, rows.space)
    except Exception as error:  # noqa: BLE001 (any file may fail in any way; the caller says so)
        picture = unusable(error)
    if isinstance(picture, Unusable):
        raise UserError(_cannot_read(rows, row, picture))
    return picture


def _cannot_read(rows: Rows, row: int, why: Unusable) -> str:
    uri = rows.uri(row)
    if missing := gone(rows):
        name = missing[0]
        return f"{rows.roots[name]} is gone ({uri!r} is in it): say where it is now with `--root {name}=/new/place`"
    return (
        f"{uri!r} was usable when the pool was annotated and now is not: {why.reason}. Put it back, annotate with "
        "--update, or say where the pool is now with `--root pool=/new/place`"
    )


def gone(rows: Rows) -> list[str]:
    """Names of the roots that are not where the manifest says."""
    return [name for name, path in sorted(rows.roots.items()) if not is_remote(path) and not Path(path).exists()]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:,.1f} MiB"


def host_memory() -> int:
    """Bytes that can be had without swapping."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
