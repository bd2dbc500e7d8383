"""The decoded pictures: on the training device, in a memory-mapped file, or decoded when they are drawn."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ..curate.images import U8, Unusable, load_or_reason
from ..curate.parallel import map_in_order, stop_processes
from ..curate.remote import is_remote
from ..curate.units import to_unit
from ..curate.whole import UnwritableError
from ..schemas.errors import UserError
from .batches import Batch
from .cache import arrived, cache_path, cache_room, opened, writers, written
from .rows import Rows
from .together import Work, nothing, together
from .world import World

Place = Literal["auto", "device", "cache", "stream"]

_DEVICE_SHARE = 0.5  # of the free memory that the pictures may take: the rest is for the network
_BLOCK_BYTES = 1 << 26  # of pictures that go to the device at once
_SAMPLE = 8  # pictures that a cache is compared with
_REPORT_EVERY = 1000


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Streamed:
    """Pictures decoded when they are drawn, by processes: threads would keep the interpreter from the training step.

    Pictures of a remote root are waited for rather than worked on: threads do it.
    """

    rows: Rows
    workers: int

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def gather(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(list(load_rows(self.rows, rows.tolist(), self.workers, many=1))))


def open_pictures(
    rows: Rows,
    device: torch.device,
    *,
    world: World | None = None,
    place: Place = "auto",
    workers: int = 2,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Pictures:
    """Have the pictures of all rows at hand, on the device if they fit there, and say where they are.

    world: the processes that train together, all of which must call; they take the first place with room for each.
    Those that share a cache folder decode once: the first writes the cache, which stays, and the others map it, or copy
    from it to their devices. Where the disk has no room for that, each decodes for its own device.
    workers: threads (for few pictures) or processes of this host that decode, shared out among those that train
    together where each decodes for itself. stop: asked about every second. say: told where the pictures live. report:
    called with (pictures read, of how many).
    Raises UserError where a picture cannot be read or is not the annotated one any more (its content id is compared),
    and where there is no room for the place asked for; Interrupted where stop said so.
    """
    check_readable(rows)
    world = world or World(rank=0, size=1, device=device)
    shape = (len(rows), *rows.space.shape)
    num_bytes, side, channels = math.prod(shape), rows.space.resolution, rows.space.channels
    what = f"{len(rows):,} pictures of {side}x{side}x{channels} ({_size(num_bytes)})"
    chosen = _choose(place, num_bytes, rows, device, world)
    own = max(min(1, workers), workers // _processes_of_host())
    if chosen == "stream":
        say(f"{what} are decoded when they are drawn, by {own or 1} worker{'s' * (own > 1)}")
        return Streamed(rows=rows, workers=own)
    share, cached = partial(together, world=world, stop=stop), None
    if chosen == "cache" or (world.size > 1 and num_bytes <= _room("cache", num_bytes, rows, device, world)):
        path = cache_path(rows)
        firsts = writers(path, world)
        is_shared = len(set(firsts)) < world.size
        if chosen == "cache" or is_shared:
            say(f"{what} in the cache {path}")
            is_writer = firsts[world.rank] == world.rank
            decoded = _decoded(rows, workers if is_shared else own, report)
            try:
                share(written(path, shape, decoded, _sampled(rows, workers), say) if is_writer else nothing())
                share(arrived(path, num_bytes))
            except UserError as error:
                if not world.any(isinstance(error, UnwritableError)) or chosen == "cache":
                    raise
                say(f"{error}; so each process decodes for itself")
            else:
                cached = torch.from_numpy(opened(path, shape))
    if chosen == "cache" and cached is not None:
        pixels = cached
    else:
        say(f"{what} in the memory of {device}")
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        share(_filled(pixels, _decoded(rows, own, report)) if cached is None else _copied(pixels, cached))
    stop_processes()
    return Stored(pixels=pixels)


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


def _choose(place: Place, num_bytes: int, rows: Rows, device: torch.device, world: World) -> Place:
    """The place asked for if there is room, or the first with room; the same on every rank. Raises UserError."""
    if place == "auto":
        places: tuple[Place, ...] = ("device", "cache", "stream")
        return next(name for name in places if num_bytes <= _room(name, num_bytes, rows, device, world))
    if num_bytes > (room := _room(place, num_bytes, rows, device, world)):
        raise UserError(
            f"the decoded pictures take {_size(num_bytes)}, and {_size(room)} are free for them with "
            f"pictures={place}: leave that out to have a place chosen, or train at a lower resolution"
        )
    return place


def _room(place: Place, num_bytes: int, rows: Rows, device: torch.device, world: World) -> float:
    """Bytes that there is room for on the rank that has the least. Every rank must call."""
    room = math.inf
    if place == "device" and device.type == "cuda":
        room = _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    elif place == "device":  # the processes of a host share its memory, in which each keeps all pictures
        room = _DEVICE_SHARE * host_memory() / _processes_of_host()
    elif place == "cache":
        room = cache_room(rows, num_bytes)
    return float(world.gather(torch.tensor(room, dtype=torch.float64)).min())


def _processes_of_host() -> int:
    """Of those that train together, how many are on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _decoded(rows: Rows, workers: int, report: Callable[[int, int], None]) -> Iterator[U8]:
    """Each row's picture in turn."""
    for row, picture in enumerate(load_rows(rows, range(len(rows)), workers)):
        yield picture
        if (row + 1) % _REPORT_EVERY == 0:
            report(row + 1, len(rows))


def _sampled(rows: Rows, workers: int) -> Iterator[tuple[int, U8]]:
    """Some rows, the first and the last among them, and their pictures, without those that cannot be read today."""
    some = sorted({int(row) for row in np.linspace(0, len(rows) - 1, _SAMPLE)})
    for row, picture in zip(some, _looked_at(rows, some, workers), strict=True):
        if not isinstance(picture, Unusable):
            yield row, picture


def _filled(pixels: Tensor, pictures: Iterable[U8]) -> Work:
    """Copy pictures in turn to where the pixels are, a block at a time: the host's memory never holds all of them."""
    block = torch.empty_like(pixels[: _block_len(pixels)], device="cpu")
    staged = block.numpy()
    for row, picture in enumerate(pictures):
        place = row % len(block)
        staged[place] = picture
        if place + 1 == len(block) or row + 1 == len(pixels):
            pixels[row - place : row + 1] = block[: place + 1]
        yield


def _copied(pixels: Tensor, cached: Tensor) -> Work:
    """The same from mapped pixels."""
    num = _block_len(pixels)
    for start in range(0, len(pixels), num):
        pixels[start : start + num] = cached[start : start + num]
        yield


def _block_len(pixels: Tensor) -> int:
    return max(1, _BLOCK_BYTES // pixels[0].numel())


def load_row(rows: Rows, row: int) -> U8:
    """The picture of a row in the Space. Raises UserError where its bytes cannot be used or are not the annotated."""
    (picture,) = load_rows(rows, [row], workers=0)
    return picture


def load_rows(rows: Rows, wanted: Sequence[int], workers: int, *, many: int | None = None) -> Iterator[U8]:
    """The pictures of these rows in turn, each as ``load_row``.

    workers: read and decode ahead: processes, where ``many`` are wanted (see map_in_order) and none is remote, or
    threads. Each picture takes the time it takes.
    """
    for row, picture in zip(wanted, _looked_at(rows, wanted, workers, many=many), strict=True):
        if isinstance(picture, Unusable):
            raise UserError(_cannot_read(rows, row, picture))
        yield picture


def _looked_at(rows: Rows, wanted: Sequence[int], workers: int, *, many: int | None = None) -> Iterator[U8 | Unusable]:
    look = partial(load_or_reason, space=rows.space, roots=rows.roots)
    local = not any(map(is_remote, rows.roots.values()))
    return map_in_order(look, _Addresses(rows, wanted), workers=workers, processes=local, many=many)


@dataclass(frozen=True, slots=True)
class _Addresses:
    """(uri, content id) of each row wanted, made when it is its turn: ten million at once would take gigabytes."""

    rows: Rows
    wanted: Sequence[int]

    def __len__(self) -> int:
        return len(self.wanted)

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        for row in self.wanted:
            yield self.rows.uri(row), self.rows.ids[row].as_py()


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
