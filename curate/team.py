"""Several processes on one pool, started by torchrun: the first reads, trains and writes; all of them annotate."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..schemas.errors import UserError

_LOST = "another process of this command has ended: look for its error; the same command continues"
_PATIENCE = timedelta(days=30)  # the others wait while the first reads a pool
_SOON = 5.0  # seconds in which an error of all processes comes to each of them


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
    """The processes that torchrun started with this one, or this one alone. Raises UserError where one is lost."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Team(rank=dist.get_rank(), size=size, local=int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(_LOST) from error
    finally:
        dist.destroy_process_group()


def first_says(message: str, *, or_another: bool = False) -> bool:
    """Whether the first of the processes that torchrun started says this last word, so that this one need not.

    They meet in torchrun's store, which outlives them; from now on this process heeds no signal.
    or_another: any other last word of the first one will do as well.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # torchrun ends the others when one has ended
    key = f"ambient/last word/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*place, timeout=timedelta(seconds=_SOON))  # type: ignore[attr-defined]
        if os.environ["RANK"] == "0":
            store.set(key, message)
            return False
        until = time.monotonic() + _SOON
        while not store.check([key]):
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        said: bytes = store.get(key)
    except dist.DistError:  # torchrun is gone
        return False
    return or_another or said == message.encode()
