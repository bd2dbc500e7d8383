"""Where drawn pictures are written: a file per seed, whole or not at all, grids to look at, and one npz of all."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..curate.whole import create_whole, replacing, write_whole
from ..schemas.errors import UserError
from .config import first_difference

FOLDER_SIZE = 1000
"""Most pictures that lie in one folder."""

_SETTINGS = "sampling.json"
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk of every PNG file

Settings = dict[str, Any]
"""What decides how the picture of a seed looks, as JSON."""


def claim(folder: Path, settings: Settings, *, temporary: bool = False) -> None:
    """Make the folder, and write down with which settings its pictures are drawn.

    Of several processes that claim it at once the first decides. Raises UserError as ``check_folder`` does: pictures
    of different settings must not be mixed.
    """
    check_folder(folder, settings, temporary=temporary)
    path = folder / _SETTINGS
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        create_whole(path, json.dumps(settings, indent=1).encode())
    check_folder(folder, settings, temporary=temporary)  # which another process may have claimed meanwhile


def check_folder(folder: Path, settings: Settings, *, temporary: bool = False) -> None:
    """Raise UserError where the folder holds pictures that were drawn with other settings, or by something else.

    temporary: the folder is to be removed in the end, so that it must not hold anything else either.
    """
    # Looked for first: another process may claim the folder and draw between the two questions.
    patterns = ("*",) if temporary else ("*.png", "*.npy", "*/*.png", "*/*.npy")
    found = (path for pattern in patterns for path in folder.glob(pattern))
    holds_some = any(not path.name.startswith(_SETTINGS) for path in found)  # such as one that is being claimed
    if (path := folder / _SETTINGS).exists():
        try:
            saved = _parsed(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is damaged: choose another folder than {folder}") from error
        _check_same(folder, saved, settings)
    elif holds_some:
        what = "files that were not written" if temporary else "pictures that were not drawn"
        raise UserError(f"{folder} holds {what} by this command: choose another {'file' if temporary else 'folder'}")


def remove(folder: Path) -> None:
    """Remove a folder that was claimed. What claims it goes last, so that a call killed here can be repeated."""
    for path in sorted(folder.glob("*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # other processes may be here, too
        elif path.name != _SETTINGS:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def path_of(folder: Path, seed: int, suffix: str, *, nested: bool) -> Path:
    """``000042.png``, or nested ``000000/000042.png``. suffix: ``.png`` or ``.npy``."""
    name = f"{seed:06d}{suffix}"
    return folder / f"{seed - seed % FOLDER_SIZE:06d}" / name if nested else folder / name


def find(folder: Path, seed: int, suffix: str) -> Path | None:
    """The complete file of a seed, nested or not, or None."""
    paths = (path_of(folder, seed, suffix, nested=nested) for nested in (False, True))
    return next((path for path in paths if path.exists() and _is_complete(path)), None)


def save(path: Path, picture: Tensor) -> None:
    """Write a picture (C, H, W): uint8 with C = 1 or 3 as ``.png``, or anything as ``.npy``, which holds (H, W, C)."""
    path.parent.mkdir(exist_ok=True)
    # Not flushed to disk one by one, which can take longer than drawing them: ``find`` looks whether they are whole.
    write_whole(path, _png(picture) if path.suffix == ".png" else _npy(picture), synced=False)


def save_grid(path: Path, pictures: Tensor, *, columns: int | None = None, zoom: int = 1) -> None:
    """Write (N, C, H, W) uint8 as one PNG, row by row; cells left over are black.

    columns: by default as near to a square grid as N allows. zoom: screen pixels per pixel and side.
    """
    num, channels, height, width = pictures.shape
    columns = columns or max(1, round(num**0.5))
    lines = -(-num // columns)
    grid = pictures.new_zeros(lines * columns, channels, height, width)
    grid[:num] = pictures
    grid = grid.view(lines, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    grid = grid.reshape(channels, lines * height, columns * width)
    write_whole(path, _png(grid.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)))


def load_pngs(paths: Iterable[Path]) -> Tensor:
    """(N, C, H, W) uint8 of PNG files of one size."""
    arrays = []
    for path in paths:
        with Image.open(path) as image:
            arrays.append(np.atleast_3d(np.asarray(image)))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def pack(npz: Path, paths: Sequence[Path], *, seeds: Sequence[int], labels: Tensor, settings: Settings) -> None:
    """Write an npz, whole or not at all: ``arr_0`` of these ``.npy`` files, ``seed``, ``label`` and ``about``.

    labels: (N,) int64. One file at a time is in memory. Raises UserError when the disk is full.
    """
    first = np.load(paths[0])
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (len(paths), *first.shape)}
    about = np.array(json.dumps(settings))
    more: dict[str, npt.NDArray[Any]] = {"seed": np.array(seeds, np.int64), "label": labels.numpy(), "about": about}
    with replacing(npz) as partial, zipfile.ZipFile(partial, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for path in paths:
                file.write(np.load(path).tobytes())
        for name, array in more.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def check_packed(npz: Path, settings: Settings, seeds: Sequence[int]) -> None:
    """Raise UserError unless this npz holds these seeds, drawn with these settings."""
    try:
        with np.load(npz) as arrays:
            saved, about = arrays["seed"].tolist(), _parsed(str(arrays["about"]))
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{npz} exists and was not drawn by this command: choose another file") from error
    _check_same(npz, about, settings)
    if saved != list(seeds):
        raise UserError(f"{npz} exists and holds other seeds: choose another file")


def _parsed(text: str) -> Settings:
    """Settings from JSON. Raises ValueError for what is none, or holds something else."""
    saved = json.loads(text)
    if not isinstance(saved, dict):
        raise ValueError(f"not settings but {type(saved).__name__}")
    return saved


def _check_same(where: Path, saved: Settings, asked: Settings) -> None:
    difference = first_difference(saved, json.loads(json.dumps(asked)))  # through JSON: tuples become lists
    if difference is None:
        return
    key, before, now = difference
    how = f"from another {key}" if key in ("checkpoint", "guide") else f"with {key} = {before}, not {now}"
    raise UserError(f"{where} holds pictures drawn {how}: choose another place for these")


def _is_complete(path: Path) -> bool:
    """Whether the file was not cut short, by a power cut say."""
    if path.suffix == ".png":
        return path.read_bytes().endswith(_PNG_END)
    try:
        np.load(path)
    except (ValueError, EOFError):
        return False
    return True


def _png(picture: Tensor) -> bytes:
    array = picture.permute(1, 2, 0).cpu().numpy()
    data = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(data, "png")
    return data.getvalue()


def _npy(picture: Tensor) -> bytes:
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
    return data.getvalue()
