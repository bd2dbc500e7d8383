"""What is worth keeping of --work, as compressed files that travel to and from rented machines."""

import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from ambient.curate.whole import PARTIAL

MOST = 16 * 2**20
"""Bytes of a file that rented machines hand back."""

_FOLDERS = ("results", "manifests", "logs", "inductor")
_UNPACKED = "unpacked"  # marks a folder
_COMPILED = "inductor"  # which can be large, and is made again in a minute or two


def pack(work: Path, out: Path) -> None:
    """A compressed file of each folder that is worth keeping; says so where one is too large to come back."""
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
    """Give a packed file its name; compiled programs that are too large are left out."""
    size, most = partial.stat().st_size, MOST / 2**20
    shown = f"{path}: {size / 2**20:.1f} MiB"
    if size <= MOST:
        print(shown)
    elif path.stem == _COMPILED:
        print(f"{shown}, LEFT OUT: more than the {most:.0f} MiB that come back; the next machine compiles anew")
        partial.unlink()
        path.unlink(missing_ok=True)
        return
    else:
        print(f"WARNING: {shown} IS TOO LARGE TO COME BACK (at most {most:.0f} MiB): fetch {path.stem} in another way")
    partial.replace(path)
