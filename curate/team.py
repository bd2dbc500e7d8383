"""Several processes on one pool, started by torchrun: the first reads, trains and writes; all of them annotate."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE = timedelta(days=30)  # the others wait while the first reads a pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """rank: of this process among ``size``, 0 leads; local: its number on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    def tell(self, job: Any) -> None:
        """Give the others what they hear next; None sends them home. For the leader."""
        if self.size > 1:
            dist.broadcast_object_list([job])

    def hear(self) -> Any:
        """What the leader tells next."""
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard)
        return heard[0]

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()

    def device(self, device: torch.device) -> torch.device:
        """The GPU of this process where a GPU is asked for and not named."""
        if self.size == 1 or str(device) != "cuda":
            return device
        mine = torch.device("cuda", self.local % torch.cuda.device_count())
        torch.cuda.set_device(mine)
        return mine


@contextmanager
def joined() -> Iterator[Team]:
    """The processes that torchrun started with this one, or this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Team(rank=dist.get_rank(), size=size, local=int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
