"""The processes that train together, one per GPU, as torchrun starts them."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ..curate.device import choose_device
from ..schemas.errors import UserError

_TIMEOUT = timedelta(minutes=30)  # the first rank may decode a large pool while the others wait
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
    neighbour = _Neighbour(rank, size)
    try:
        yield World(rank=rank, size=size, device=place)
        neighbour.part()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in ("gloo", "NCCL")):
            raise
        raise UserError(f"{_LOST} ({str(error).splitlines()[0].split('. ')[0]})") from error
    finally:
        dist.destroy_process_group()
        neighbour.forget()


class _Neighbour:
    """Ends this process soon after the next one of the ring is lost.

    A process that waits for its GPU, on which NCCL waits for the other one, learns of that by no error and no signal:
    Python's handlers run when the waiting is over. So a thread listens to the other process.
    """

    def __init__(self, rank: int, size: int) -> None:
        group = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        assert isinstance(group, dist.ProcessGroup)  # this process is in it
        self.group = group
        self.next, self.previous = (rank + 1) % size, (rank - 1) % size
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def part(self) -> None:
        """Say goodbye, and wait for the other's."""
        dist.send(torch.zeros(1), self.previous, group=self.group)
        self.thread.join()

    def forget(self) -> None:
        """This process is out of the group, whatever becomes of the other."""
        self.over.set()
        self.thread.join(1.0)  # Python aborts where it ends while a thread comes back from C++

    def _listen(self) -> None:
        try:
            dist.recv(torch.empty(1), self.next, group=self.group)
        except RuntimeError:
            if not self.over.wait(_GRACE):
                sys.stderr.write(f"ambient: {_LOST}\n")
                sys.stderr.flush()
                os._exit(1)


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
