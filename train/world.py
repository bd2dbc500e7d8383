"""The processes that train together, one per GPU, as torchrun starts them."""

import os
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait as ready

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ..curate.device import choose_device
from ..schemas.errors import UserError

_TIMEOUT = timedelta(minutes=30)  # of one communication; who decodes a pool meets the others every second
_REACH = 60.0  # seconds for a connection to the first process
_GRACE = 10.0  # seconds for a process to end by itself after another was lost
_LOST = (
    "another process of this run has ended: look for its error above; the same command continues from the "
    "last checkpoint"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """rank: of this process among ``size``. device: that it trains on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank. Every rank must call."""
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX)  # on the CPU: the GPU's queue is not waited for
        return bool(flags)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place. Every rank must call."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """(size, ...) values of all ranks, on the CPU. Every rank must call."""
        values = values.cpu()
        if self.size == 1:
            return values[None]
        out = values.new_empty(self.size, *values.shape)
        dist.all_gather(list(out), values)
        return out

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """This process's place in the world: alone, or as torchrun's environment says.

    device: ``auto``, ``cpu``, ``cuda`` or, for one process, ``cuda:N``. Raises UserError where it is not there, and for
    the loss of another process, which any communication may meet.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield World(rank=0, size=1, device=choose_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = choose_device(device)
    if place.type == "cuda":
        if str(place) != "cuda":
            raise UserError(f"--device {device} names one GPU, but {size} processes train: use --device cuda")
        place = choose_device(f"cuda:{local}")
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT, device_id=place if place.type == "cuda" else None)
    watch = _Watch(rank, size)
    try:
        yield World(rank=rank, size=size, device=place)
        watch.part()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in ("gloo", "NCCL")):
            raise
        raise UserError(f"{_LOST} ({str(error).splitlines()[0].split('. ')[0]})") from error
    finally:
        dist.destroy_process_group()
        watch.forget()


class _Watch:
    """Ends this process soon after another is lost.

    A process that waits for its GPU, on which NCCL waits for the other one, learns of that by no error and no signal:
    Python's handlers run when the waiting is over. So a thread of the first one listens to all others, and one of each
    other to the first, on sockets of their own: unlike a message of gloo's, which nothing calls off, what is awaited
    there ends when this process leaves. Python aborts where it ends while a thread comes back from C++.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.others = _connected(rank, size)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def part(self) -> None:
        """Say goodbye, and wait for the others'."""
        for other in self.others:
            with suppress(OSError):  # who is lost already is noticed by the thread
                other.sendall(b".")
        self.thread.join()

    def forget(self) -> None:
        """This process listens no more, whatever becomes of the others."""
        self.over.set()
        for other in self.others:
            with suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self.thread.join()
        for other in self.others:
            other.close()

    def _listen(self) -> None:
        waiting = list(self.others)
        while waiting:
            for other in ready(waiting):
                assert isinstance(other, socket.socket)
                waiting.remove(other)
                if not _said_goodbye(other):
                    if not self.over.wait(_GRACE):
                        sys.stderr.write(f"ambient: {_LOST}\n")
                        sys.stderr.flush()
                        os._exit(1)
                    return


def _connected(rank: int, size: int) -> list[socket.socket]:
    """Of the first process: connections with each other one. Of the others: with the first, whose host is known."""
    port, host = torch.zeros(1, dtype=torch.int64), os.environ["MASTER_ADDR"]
    try:
        if rank > 0:
            dist.broadcast(port, 0)
            others = [socket.create_connection((host, int(port)), _REACH)]
        else:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            with socket.create_server(("", 0), family=family, backlog=size, dualstack_ipv6=both) as server:
                dist.broadcast(port.fill_(server.getsockname()[1]), 0)
                server.settimeout(_REACH)
                others = [server.accept()[0] for _ in range(size - 1)]
    except OSError as error:
        raise UserError(f"the processes of this run do not reach the first one at {host}: {error}") from error
    for other in others:
        other.settimeout(None)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine without power closes no connection
    return others


def _said_goodbye(other: socket.socket) -> bool:
    """Whether a word came; where a process is gone, nothing or an error does."""
    try:
        return other.recv(1) != b""
    except OSError:
        return False


def average_gradients(parameters: Iterable[Tensor], world: World) -> None:
    """Mean of every gradient over the ranks, in one go after backward().

    A compiled network hands over all its gradients at once, so there is nothing to overlap with.
    """
    if world.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    world.sum(flat).div_(world.size)
    sizes = [gradient.numel() for gradient in gradients]
    averaged = [part.view_as(gradient) for part, gradient in zip(torch.split(flat, sizes), gradients, strict=True)]
    torch._foreach_copy_(gradients, averaged)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over ranks, as one. Every rank must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that belongs on this rank, laid out as ``like``."""
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)
    return tensor.to(like.device)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
