"""Weights that a measure needs and that may not be here: what is missing, and where it belongs, in one line."""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from ..schemas.errors import UserError

_CONNECT_S = 3.0


def missing(name: str, file: str, destination: str, num_bytes: int | None, host: str) -> UserError:
    """The error for a file of weights that is not here and cannot be fetched."""
    size = "size unknown" if num_bytes is None else f"about {num_bytes / 1e6:,.0f} MB"
    return UserError(
        f"{name} needs the weights {file} ({size}), which are not here, and {host} cannot be reached: put them at "
        f"{destination}, or name a local copy with --weights {name}=FILE"
    )


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """A fetch of weights that fails, in whatever way of its library, is one line with its cause."""
    try:
        yield
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"the weights of {name} cannot be fetched ({cause}): try again, or name a local copy with "
            f"--weights {name}=FILE"
        ) from error


def given(name: str, file: str) -> str:
    """The path of weights that the user named. Raises UserError when it is no file."""
    if not Path(file).is_file():
        raise UserError(f"--weights {name}={file}: there is no such file")
    return file


def reachable(url: str) -> bool:
    """Whether the host of a url answers, or the proxy that is set for it. Asked first: libraries retry for minutes."""
    parts = urlparse(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.netloc):
        parts = urlparse(proxy if "//" in proxy else f"//{proxy}")
    if parts.hostname is None or os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
    except (OSError, ValueError):  # the latter of a port that is none
        return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What libraries print on stdout goes to stderr, and what they log, errors apart, nowhere."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)
