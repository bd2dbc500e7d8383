"""The manifest's usable rows, held in columns: ten million of them fit into a little memory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..curate.noise import hex_digits, names_of
from ..curate.uris import Roots, relocated
from ..schemas.errors import UserError
from ..schemas.manifest import SAID, check_rows, read_metadata
from ..schemas.space import Space

_COLUMNS = ["uri", "id", "status", "role", "method", "sigma_min", "sigma_max", "label"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The N rows of a manifest with status ``ok``, in its order. A "row" of the trainer is an index into these.

    uris, ids: Arrow strings. names: (N,) int64, of the pictures' fixed noise.
    sigma_min, sigma_max: (N,) float32. clean: (N,) bool, of the clean set, or usable everywhere by somebody's word.
    pool_share: (2, L) float64, noise levels and how much of what is drawn there comes from outside the clean set, L = 0
    where that is not known. labels: (N,) int64, -1 where unknown.
    fingerprint: BLAKE2b-128 over the Space and all that is listed here except uris: what training depends on.
    """

    space: Space
    roots: Roots
    uris: pa.ChunkedArray
    ids: pa.ChunkedArray
    names: Tensor
    sigma_min: Tensor
    sigma_max: Tensor
    clean: Tensor
    pool_share: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.uris)

    def uri(self, row: int | Tensor) -> str:
        uri: str = self.uris[int(row)].as_py()
        return uri


def read_rows(manifest: Path, *, resolution: int | None = None, roots: Roots | None = None) -> Rows:
    """Rows of the manifest at this path.

    resolution: refuse a manifest annotated for another one. roots: where roots of the manifest lie now, name -> path.
    Raises UserError where the manifest cannot be used; pictures are not looked at.
    """
    metadata = read_metadata(manifest)
    _check_space(metadata.space, resolution, manifest)
    where = relocated(metadata.roots, roots or {}, str(manifest))
    table = pq.read_table(manifest, columns=_COLUMNS)
    check_rows(table, str(manifest))
    table = table.filter(pc.equal(table["status"].cast(pa.string()), "ok"))
    if table.num_rows == 0:
        raise UserError(f"{manifest} has no picture with status 'ok': nothing to train on")
    sigma_min, sigma_max = (torch.from_numpy(table[name].to_numpy().copy()) for name in ("sigma_min", "sigma_max"))
    clean = torch.from_numpy(_of_clean_set(table).to_numpy().copy())
    share = metadata.pool_share
    pool_share = torch.tensor([metadata.sigma_grid if share else [], share], dtype=torch.float64)
    labels = torch.from_numpy(pc.fill_null(table["label"], -1).to_numpy().astype(np.int64))
    return Rows(
        space=metadata.space,
        roots=where,
        uris=table["uri"],
        ids=table["id"],
        names=names_of(table["id"]),
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        clean=clean,
        pool_share=pool_share,
        labels=labels,
        fingerprint=_fingerprint(metadata.space, table["id"], [sigma_min, sigma_max, clean, pool_share, labels]),
    )


def _check_space(space: Space, resolution: int | None, manifest: Path) -> None:
    if resolution not in (None, space.resolution):
        raise UserError(
            f"{manifest} is annotated for {space}, not for resolution {resolution}, and its sigma_min mean nothing "
            f"there: annotate with `--resolution {resolution}`"
        )


def _of_clean_set(table: pa.Table) -> pa.ChunkedArray:
    """Which pictures are clean, or were said to be usable everywhere; not those that a classifier took for clean."""
    said = pc.and_(pc.is_in(table["method"].cast(pa.string()), pa.array(SAID)), pc.equal(table["sigma_min"], 0))
    return pc.or_(pc.equal(table["role"].cast(pa.string()), "clean"), said)


def _fingerprint(space: Space, ids: pa.ChunkedArray, columns: list[Tensor]) -> str:
    digest = hashlib.blake2b(str(space).encode(), digest_size=16)
    for digits in hex_digits(ids):
        digest.update(digits.tobytes())
    for column in columns:
        digest.update(column.numpy().tobytes())
    return digest.hexdigest()
