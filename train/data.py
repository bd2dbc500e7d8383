"""The manifest's usable rows, and their pictures as one tensor."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..curate.images import U8, Unusable, decode, fit, to_unit, unusable
from ..curate.parallel import map_in_order
from ..curate.uris import Roots, read_bytes, relocated
from ..schemas.errors import UserError
from ..schemas.manifest import read_metadata
from ..schemas.space import Space

_COLUMNS = ["uri", "id", "status", "sigma_min", "sigma_max", "label"]
_DEVICE_SHARE = 0.5  # of the free memory that the pictures may take: the rest is for the network
_REPORT_EVERY = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The N rows of a manifest with status ``ok``, in its order. A "row" of the trainer is an index into these.

    ids: content ids. sigma_min, sigma_max: (N,) float32. labels: (N,) int64, -1 where unknown.
    fingerprint: BLAKE2b-128 over the Space and all that is listed here except uris: what training depends on.
    """

    space: Space
    roots: Roots
    uris: list[str]
    ids: list[str]
    sigma_min: Tensor
    sigma_max: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.uris)


def read_rows(manifest: Path, *, resolution: int | None = None, roots: Roots | None = None) -> Rows:
    """Rows of the manifest at this path.

    resolution: refuse a manifest annotated for another one. roots: where roots of the manifest lie now, name -> path.
    Raises UserError where the manifest cannot be used; pictures are not looked at.
    """
    metadata = read_metadata(manifest)
    _check_space(metadata.space, resolution, manifest)
    where = relocated(metadata.roots, roots or {}, str(manifest))
    table = pq.read_table(manifest, columns=_COLUMNS)
    table = table.filter(pc.equal(table["status"].cast(pa.string()), "ok"))
    if table.num_rows == 0:
        raise UserError(f"{manifest} has no picture with status 'ok': nothing to train on")
    columns = {name: table[name].combine_chunks() for name in _COLUMNS}
    sigma_min, sigma_max = (_thresholds(columns[name], manifest) for name in ("sigma_min", "sigma_max"))
    ids: list[str] = columns["id"].to_pylist()
    labels = torch.from_numpy(columns["label"].fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64))
    return Rows(
        space=metadata.space,
        roots=where,
        uris=columns["uri"].to_pylist(),
        ids=ids,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        labels=labels,
        fingerprint=_fingerprint(metadata.space, ids, [sigma_min, sigma_max, labels]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """pixels: (N, C, R, R) uint8, on the training device where they fit, else in the host's memory."""

    pixels: Tensor

    def gather(self, rows: Tensor, device: torch.device) -> Tensor:
        """w_0 (B, C, R, R) float32 in [-1, 1] of these rows (B,) int64, on the device."""
        return to_unit(self.pixels[rows.to(self.pixels.device)].to(device))


def load_pictures(
    rows: Rows, device: torch.device, *, workers: int = 2, report: Callable[[int, int], None] | None = None
) -> Pictures:
    """Read, check and decode every picture.

    workers: threads. report: called with (pictures read, of how many) now and then.
    Raises UserError where the pictures do not fit into memory, or one cannot be read or is not the annotated one any
    more: its content id is compared.
    """
    shape = (len(rows), *rows.space.shape)
    place = _place(int(np.prod(shape)), device)
    pixels = np.empty(shape, dtype=np.uint8)
    loaded = map_in_order(lambda row: _load(rows, row), range(len(rows)), workers=workers)
    for row, picture in enumerate(loaded):
        if isinstance(picture, Unusable):
            raise UserError(_cannot_read(rows, row, picture))
        pixels[row] = picture
        if report and (row + 1) % _REPORT_EVERY == 0:
            report(row + 1, len(rows))
    return Pictures(pixels=torch.from_numpy(pixels).to(place))


def _load(rows: Rows, row: int) -> U8 | Unusable:
    """The picture of a row in the Space, from bytes whose content id is the manifest's."""
    try:
        data = read_bytes(rows.uris[row], rows.roots)
        if hashlib.blake2b(data, digest_size=16).hexdigest() != rows.ids[row]:
            return Unusable("unreadable", "its content is not what was annotated")
        return fit(decode(data).pixels, rows.space)
    except Exception as error:  # noqa: BLE001 (any file may fail in any way; the caller says so)
        return unusable(error)


def _cannot_read(rows: Rows, row: int, why: Unusable) -> str:
    uri = rows.uris[row]
    missing = [name for name, path in sorted(rows.roots.items()) if not Path(path).exists()]
    if missing:
        name = missing[0]
        return f"{rows.roots[name]} is gone ({uri!r} is in it): say where it is now with `--root {name}=/new/place`"
    return (
        f"{uri!r} was usable when the pool was annotated and now is not: {why.reason}. Put it back, annotate again, "
        "or say where the pool is now with `--root pool=/new/place`"
    )


def _place(num_bytes: int, device: torch.device) -> torch.device:
    """Where so many bytes of pictures fit: the device, else the host."""
    if device.type == "cuda" and num_bytes <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    if num_bytes <= _DEVICE_SHARE * (host := host_memory()):
        return torch.device("cpu")
    raise UserError(
        f"the decoded pictures take {num_bytes / 2**30:.1f} GiB, more than half of this machine's "
        f"{host / 2**30:.1f} GiB of free memory: train on fewer pictures or at a lower resolution"
    )


def host_memory() -> int:
    """Bytes that can be had without swapping."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_space(space: Space, resolution: int | None, manifest: Path) -> None:
    if space.kind != "pixel":
        raise UserError(f"{manifest} is annotated in {space}: only pixel spaces can be trained on")
    if resolution not in (None, space.resolution):
        raise UserError(
            f"{manifest} is annotated for {space}, not for resolution {resolution}, and its sigma_min mean nothing "
            f"there: annotate with `--resolution {resolution}`"
        )


def _thresholds(column: pa.Array, manifest: Path) -> Tensor:
    values = torch.from_numpy(column.to_numpy(zero_copy_only=False).astype(np.float32))
    if bool((~(values >= 0)).any()):
        raise UserError(f"{manifest} has pictures with status 'ok' and no sigma_min or sigma_max: annotate it again")
    return values


def _fingerprint(space: Space, ids: list[str], columns: list[Tensor]) -> str:
    digest = hashlib.blake2b(str(space).encode(), digest_size=16)
    digest.update("".join(ids).encode())
    for column in columns:
        digest.update(column.numpy().tobytes())
    return digest.hexdigest()
