"""What is worth keeping of --work, as compressed files that travel to and from rented machines."""

import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from ambient.curate.whole import PARTIAL

MOST = 16 * 2**20
"""Bytes of a file that rented machines hand back."""

_FOLDERS = ("results", "manifests", "logs")
_UNPACKED = "unpacked"  # marks a folder


def pack(work: Path, out: Path) -> None:
    """A compressed file of each folder that is worth keeping; says so where one is too large to come back.

    Compiled programs are not: they take longer to pack than they are worth.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in _FOLDERS:
        if (work / name).exists():
            _keep(_packed(work, name, out / f"{name}.tgz{PARTIAL}"), out / f"{name}.tgz")


def unpack(keep: Path, work: Path) -> None:
    """What ``pack`` packed, but for logs; what is there stays."""
    if not (keep / "results.tgz").exists():
        sys.exit(f"there is no results.tgz in {keep}")
    for name in _FOLDERS:
        if name != "logs" and (keep / f"{name}.tgz").exists() and not (work / name / _UNPACKED).exists():
            with tarfile.open(keep / f"{name}.tgz") as archive:
                archive.extractall(work, filter="data")
            (work / name / _UNPACKED).touch()


def _packed(work: Path, name: str, partial: Path) -> Path:
    with tarfile.open(partial, "w:gz") as archive:
        for path in sorted(path for path in (work / name).rglob("*") if path.is_file() and path.name != _UNPACKED):
            with suppress(FileNotFoundError):  # written under a temporary name and renamed in this moment
                archive.add(path, path.relative_to(work))
    return partial


def _keep(partial: Path, path: Path) -> None:
    """Give a packed file its name."""
    size = partial.stat().st_size
    shown = f"{path}: {size / 2**20:.1f} MiB"
    if size <= MOST:
        print(shown)
    else:
        most = f"at most {MOST / 2**20:.0f} MiB"
        print(f"WARNING: {shown} IS TOO LARGE TO COME BACK ({most}): fetch {path.stem} in another way")
    partial.replace(path)
