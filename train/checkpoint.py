"""Checkpoints: folders ``checkpoints/000012345678`` (pictures seen) of safetensors files and one ``state.json``.

A folder is written under a temporary name, flushed to disk and renamed, so one with its final name is complete;
checksums tell whether it still is. Nothing is ever unpickled.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..curate import digests
from ..curate.whole import PARTIAL, writing
from ..schemas.errors import UserError

_FORMAT = 1
_STATE = "state.json"

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """num_images: pictures seen. parts: ``weights``, ``ema``, ``optimizer``, each name -> tensor on the CPU.

    about: JSON about the run (configuration, fingerprint, Space). checksums: BLAKE2b-128 of the parts that were read:
    the same weights have the same.
    """

    num_images: int
    parts: dict[str, Tensors]
    about: dict[str, Any]
    checksums: dict[str, str] = field(default_factory=dict)


class Damaged(Exception):  # noqa: N818 (it describes the checkpoint, not a fault of the program)
    """A checkpoint whose files are not what was written."""


def write(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint of the run, then remove all before it but ``keep - 1``. Returns its folder.

    Later ones go first: a run that writes this one has passed them over as damaged. Raises UserError when the disk is
    full; what was half-written is removed.
    """
    final = run / "checkpoints" / f"{checkpoint.num_images:012d}"
    partial = final.with_name(final.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(run):
            partial.mkdir(parents=True)
            _write_files(partial, checkpoint)
            shutil.rmtree(final, ignore_errors=True)  # a damaged one that was trained past again
            partial.rename(final)
            _sync_folder(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    found = folders(run)
    here = found.index(final)
    with writing(run):
        for old in (*found[here + 1 :], *found[: max(0, here + 1 - keep)]):
            _remove(old)
    return final


def newest(
    run: Path,
    *,
    parts: tuple[str, ...],
    warn: Callable[[str], None],
    check: Callable[[dict[str, Any]], None] = lambda _: None,
) -> tuple[Path, Checkpoint] | None:
    """The newest undamaged checkpoint of a run, or None; ``warn`` is told of each damaged one passed over.

    parts: which to load. check: told what the checkpoint is about before they are; it may raise.
    Raises UserError where there are checkpoints and every one is damaged.
    """
    found = folders(run)
    for folder in reversed(found):
        try:
            return folder, read(folder, parts, check)
        except Damaged as why:
            if not folder.exists():  # removed meanwhile by the run itself, which has written a newer one
                return newest(run, parts=parts, warn=warn, check=check)
            warn(f"checkpoint {folder} is damaged ({why}): using the one before it")
    if found:
        raise UserError(f"every checkpoint in {run / 'checkpoints'} is damaged: remove {run} to train from the start")
    return None


def read(folder: Path, parts: tuple[str, ...], check: Callable[[dict[str, Any]], None] = lambda _: None) -> Checkpoint:
    """The checkpoint in this folder, with these parts. Raises Damaged, or UserError for another format.

    check: as in ``newest``.
    """
    try:
        state = json.loads((folder / _STATE).read_text())
        if state.pop("checksum") != digests.of_json(state):
            raise ValueError(f"{_STATE} does not have its checksum")
        if state["format"] != _FORMAT:
            raise UserError(f"{folder} has checkpoint format {state['format']}, not {_FORMAT}: use another version")
        check(state["about"])
        tensors = {name: _read_part(folder / f"{name}.safetensors", state["checksums"][name]) for name in parts}
        checksums = {name: state["checksums"][name] for name in parts}
        return Checkpoint(num_images=state["num_images"], parts=tensors, about=state["about"], checksums=checksums)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from error


def folders(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(f for f in (run / "checkpoints").glob("[0-9]" * 12) if f.is_dir())


def _remove(folder: Path) -> None:
    """All of it at once for those who read: a folder with a checkpoint's name is whole."""
    going = folder.with_name(folder.name + PARTIAL)
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    checksums = {}
    for name, tensors in checkpoint.parts.items():
        # safetensors stores memory in row order; channels-last weights are put in that order first.
        data = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        _write_synced(folder / f"{name}.safetensors", data)
        checksums[name] = digests.of_bytes(data)
    state = {
        "format": _FORMAT,
        "num_images": checkpoint.num_images,
        "torch": torch.__version__,
        "checksums": checksums,
        "about": checkpoint.about,
    }
    state["checksum"] = digests.of_json(state)
    _write_synced(folder / _STATE, json.dumps(state, indent=1).encode())
    _sync_folder(folder)


def _write_synced(path: Path, data: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's own entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_part(path: Path, checksum: str) -> Tensors:
    data = path.read_bytes()
    if digests.of_bytes(data) != checksum:
        raise ValueError(f"{path.name} does not have its checksum")
    tensors: Tensors = load(data)  # in an order of its own in every process; spreading them over ranks needs one
    return dict(sorted(tensors.items()))
