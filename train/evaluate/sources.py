"""Sets of pictures to evaluate, wherever they lie: a pool, a manifest with a predicate, or an npz of samples."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ...curate import digests
from ...curate.candidates import Candidate
from ...curate.images import Unusable, decode, fit, load_many
from ...curate.parallel import map_in_order
from ...curate.pool import content_id, find, told
from ...curate.query import matching
from ...curate.remote import address
from ...curate.reporter import Reporter
from ...curate.uris import Roots, read_bytes
from ...schemas.errors import UserError
from ...schemas.manifest import MAIN_ROOT, METADATA_KEY, file_metadata, read_metadata
from ...schemas.space import Space

CLEAN = "role = 'clean'"
"""The rows of a manifest that are taken when nothing is said."""

ALL = "true"
"""Every row."""

COPY_SIDE = 64
"""Pixels a side at which copies are looked for: enough to know a picture again, and 100,000 of them fit into memory."""

_COLUMNS = ["uri", "id", "label", "status", "role"]
_LARGEST_SIDE = 256
_LOOKED_AT = 64  # pictures that decide at which size a pool is compared


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A set of pictures, not read yet.

    ids: content id of each. labels: (N,) int64, -1 where unknown. space: the one that they are in, None for a pool,
    whose pictures have any size. uris, roots: where they lie; pixels: (N, C, R, R) uint8 of an npz instead.
    """

    name: str
    ids: Sequence[str]
    labels: Tensor
    space: Space | None = None
    uris: Sequence[str] = ()
    roots: Roots | None = None
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """BLAKE2b-128 in hex over the content ids in their order."""
        return digests.of_bytes("".join(self.ids).encode())

    def rows(self, rows: Sequence[int]) -> "Source":
        """The pictures with these numbers, in this order."""
        return replace(
            self,
            ids=[self.ids[i] for i in rows],
            labels=self.labels[list(rows)],
            uris=[self.uris[i] for i in rows] if self.uris else (),
            pixels=None if self.pixels is None else self.pixels[list(rows)],
        )

    def some(self, num: int, *, seed: int) -> "Source":
        """All if there are no more than ``num``, else that many at random, in their order."""
        if len(self) <= num:
            return self
        return self.rows(np.sort(np.random.default_rng(seed).permutation(len(self))[:num]).tolist())


def open_source(
    path: Path, *, where: str | None = None, roots: Roots | None = None, workers: int, reporter: Reporter
) -> Source:
    """The pictures at a path: an npz (``arr_0``), a manifest, or a pool (folder, archive, list).

    where: SQL predicate over the columns of a manifest, by default CLEAN; only rows with status ``ok`` count. roots:
    where those of a manifest lie now; names that it does not have are for another. Raises UserError where there is no
    picture.
    """
    if is_manifest(path):
        return _from_manifest(path, CLEAN if where is None else where, roots or {})
    if where is not None:
        raise UserError(f"--where picks rows of a manifest, and {path} is none: leave it out")
    return _from_npz(path) if path.suffix == ".npz" else _from_pool(path, workers, reporter)


def count(path: Path, *, where: str | None = None, roots: Roots | None = None) -> int:
    """How many pictures ``open_source`` finds; those of a pool are listed, and none is read."""
    if where is None and path.suffix != ".npz" and not is_manifest(path):
        return len(_listed(path)[0])
    return len(open_source(path, where=where, roots=roots, workers=0, reporter=Reporter(quiet=True)))


def read(source: Source, space: Space, *, workers: int, reporter: Reporter) -> tuple[Tensor, list[int]]:
    """(N, C, R, R) uint8 of the pictures that can be read, in the space, and their numbers; the others are counted."""
    if source.pixels is not None:
        return resized(source.pixels, space), list(range(len(source)))
    assert source.roots is not None
    kept, pictures = [], []
    with reporter.track(f"reading {source.name}", len(source)) as advance:
        for i, picture in load_many(source.uris, space, source.roots, workers=workers):
            if not isinstance(picture, Unusable):
                kept.append(i)
                pictures.append(picture)
            advance(1)
    if not kept:
        raise UserError(f"none of the {len(source):,} pictures of {source.name} can be read: has the pool moved?")
    if len(kept) < len(source):
        reporter.warn(f"{len(source) - len(kept):,} pictures of {source.name} cannot be read and are left out")
    return torch.from_numpy(np.stack(pictures)), kept


def common_space(samples: Source, reference: Source) -> Space:
    """The space in which two sets are compared: that of the samples, of the reference, or what fits the smaller.

    So what is enlarged is never compared with what is not. Raises UserError where both have one and these differ.
    """
    a, b = samples.space, reference.space
    if a and b and a.shape != b.shape:
        raise UserError(f"{samples.name} holds {a}, and {reference.name} {b}: pictures of one size are needed")
    if space := a or b:
        return space
    return Space(resolution=min(_largest_power(samples), _largest_power(reference)))


def _largest_power(source: Source) -> int:
    """The largest power of two <= the median short side of the first pictures of a pool, at most _LARGEST_SIDE."""
    assert source.roots is not None
    sides = [side for uri in source.uris[:_LOOKED_AT] if (side := _short_side(uri, source.roots))]
    if not sides:
        raise UserError(f"the first pictures of {source.name} cannot be read: name a folder of pictures")
    return int(2 ** int(np.log2(min(float(np.median(sides)), _LARGEST_SIDE))))


def space_of_copies(space: Space) -> Space:
    """Where copies are looked for: the same with at most COPY_SIDE pixels a side."""
    return replace(space, resolution=min(space.resolution, COPY_SIDE))


def roots_in(manifest: Path, moved: Roots | None) -> Roots:
    """Those of the roots that lie elsewhere now which a manifest has."""
    known = read_metadata(manifest).roots
    return {name: place for name, place in (moved or {}).items() if name in known}


def check_roots(paths: Sequence[Path], moved: Roots | None) -> None:
    """Raise UserError for a root that no manifest among the paths has."""
    known = sorted({name for path in paths if is_manifest(path) for name in read_metadata(path).roots})
    if unknown := sorted(set(moved or {}) - set(known)):
        raise UserError(f"--root {unknown[0]}: there is none of that name; roots are {', '.join(known) or 'not used'}")


def everything(path: Path) -> str | None:
    """The predicate of all usable rows where the path is a manifest, else None."""
    return ALL if is_manifest(path) else None


def is_manifest(path: Path) -> bool:
    """Whether a file is one of ``ambient annotate``, and not a pool that is a Parquet file."""
    return METADATA_KEY in file_metadata(path)


def _from_npz(path: Path) -> Source:
    try:
        with np.load(path) as arrays:
            pixels = arrays["arr_0"]
            labels = arrays["label"] if "label" in arrays else np.full(len(pixels), -1)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no npz with pictures in arr_0: `ambient sample --npz` writes those") from error
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 4
        or pixels.shape[1] != pixels.shape[2]
        or pixels.shape[3] not in (1, 3)
    ):
        raise UserError(
            f"arr_0 of {path} is {pixels.dtype} {pixels.shape}: square uint8 pictures (N, H, H, 3) are needed"
        )
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
        raise UserError(
            f"label of {path} is {labels.dtype} {labels.shape}: a whole number for each of its {len(pixels)} pictures "
            "is needed"
        )
    return Source(
        name=str(path),
        ids=[content_id(picture.tobytes()) for picture in pixels],
        labels=torch.from_numpy(labels.astype(np.int64)),
        space=Space(resolution=pixels.shape[1], channels=pixels.shape[3]),
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2),
    )


def _from_manifest(path: Path, where: str, moved: Roots) -> Source:
    metadata = read_metadata(path)
    table = pq.read_table(path, columns=_COLUMNS if where in (CLEAN, ALL) else None)
    table = table.filter(pc.equal(table["status"].cast(pa.string()), "ok"))
    if where == CLEAN:  # without DuckDB
        table = table.filter(pc.equal(table["role"].cast(pa.string()), "clean"))
    elif where != ALL:
        uris = pa.array(matching(table, where, "uri"), pa.string())
        table = table.filter(pc.is_in(table["uri"], value_set=uris))
    if table.num_rows == 0:
        raise UserError(f'no usable picture of {path} fits --where "{where}": choose others')
    return Source(
        name=str(path),
        ids=table["id"].to_pylist(),
        labels=torch.from_numpy(pc.fill_null(table["label"], -1).to_numpy().astype(np.int64)),
        space=metadata.space,
        uris=table["uri"].to_pylist(),
        roots={**metadata.roots, **roots_in(path, moved)},
    )


def _from_pool(path: Path, workers: int, reporter: Reporter) -> Source:
    candidates, roots = _listed(path)

    def identify(candidate: Candidate) -> tuple[str, int | None]:
        try:
            digest = content_id(read_bytes(candidate.uri, roots))
        except Exception:  # noqa: BLE001 (any file may fail in any way; ``read`` counts it)
            digest = content_id(candidate.uri.encode())
        return digest, told(candidate, roots).get("label", candidate.label)

    with reporter.track(f"identifying {path}", len(candidates)) as advance:
        ids, labels = [], []
        for digest, label in map_in_order(identify, candidates, workers=workers):
            ids.append(digest)
            labels.append(-1 if label is None else label)
            advance(1)
    uris = [candidate.uri for candidate in candidates]
    return Source(name=str(path), ids=ids, labels=torch.tensor(labels), uris=uris, roots=roots)


def _listed(path: Path) -> tuple[list[Candidate], Roots]:
    """The pictures of a pool, and its root."""
    roots = {MAIN_ROOT: address(path)}
    candidates = [candidate for candidate in find(roots).candidates if candidate.problem is None]
    if not candidates:
        raise UserError(f"there is no picture in {path}: name a folder, archive, manifest or npz of pictures")
    return candidates, roots


def _short_side(uri: str, roots: Roots) -> int | None:
    try:
        picture = decode(read_bytes(uri, roots))
    except Exception:  # noqa: BLE001 (any file may fail in any way; ``read`` counts it)
        return None
    return min(picture.width, picture.height)


def resized(pixels: Tensor, space: Space) -> Tensor:
    """(N, C, R, R) uint8 of square pictures (N, 1 or 3, H, H) uint8 in the space."""
    if tuple(pixels.shape[1:]) == space.shape:
        return pixels
    three = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([fit(np.ascontiguousarray(picture), space) for picture in three]))
