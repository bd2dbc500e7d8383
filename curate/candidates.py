"""The pictures that were found, held in columns: millions of them fit into a little memory."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_BATCH = 8192

_word = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("source", _word),
        ("problem", pa.string()),
        ("label", pa.int32()),
        ("caption", pa.string()),
        ("beside", _word),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A file or archive member that is a picture by its name or its first bytes.

    problem: why it cannot be read, when finding it has already shown that. label, caption: known before reading.
    beside: extensions of the files beside it that tell more, separated by blanks.
    """

    uri: str
    source: str
    problem: str | None = None
    label: int | None = None
    caption: str | None = None
    beside: str = ""


class Candidates(Sequence[Candidate]):
    """Candidates sorted by uri, no uri twice. Parts of it share its memory."""

    def __init__(self, table: pa.Table) -> None:
        """table: as ``collect`` makes it."""
        self._table = table

    @classmethod
    def collect(cls, found: Iterable[Candidate]) -> "Candidates":
        """Of candidates that share a uri, those that cannot be read are given a number."""
        batches, rest = [], iter(found)
        while batch := list(islice(rest, _BATCH)):
            columns = {name: [getattr(candidate, name) for candidate in batch] for name in _SCHEMA.names}
            batches.append(pa.RecordBatch.from_pydict(columns, schema=_SCHEMA))
        table = _numbered(pa.Table.from_batches(batches, schema=_SCHEMA)).unify_dictionaries()
        return cls(table.take(pc.sort_indices(table["uri"])).combine_chunks())

    @property
    def uris(self) -> pa.ChunkedArray:
        return self._table["uri"]

    @property
    def beside(self) -> pa.ChunkedArray:
        return self._table["beside"]

    def where(self, mask: NDArray[np.bool_]) -> "Candidates":
        """Those where mask (N,) holds."""
        return Candidates(self._table.filter(pa.array(mask)))

    def digest(self) -> str:
        """BLAKE2b-128 in hex over the uris."""
        hashed = hashlib.blake2b(digest_size=16)
        for batch in self._table.select(["uri"]).to_batches(max_chunksize=_BATCH):
            hashed.update("\0".join([*batch["uri"].to_pylist(), ""]).encode())
        return hashed.hexdigest()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Candidate]:
        for batch in self._table.to_batches(max_chunksize=_BATCH):
            for row in batch.to_pylist():
                yield Candidate(**row)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> "Candidates": ...
    def __getitem__(self, index: int | slice) -> "Candidate | Candidates":
        if isinstance(index, int):
            return Candidate(**self._table.slice(range(len(self))[index], 1).to_pylist()[0])
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError("candidates are cut into contiguous parts only")
        return Candidates(self._table.slice(start, max(0, stop - start)))


def _numbered(table: pa.Table) -> pa.Table:
    """``#1``, ``#2`` ... after the uris of what cannot be read and shares its uri with another."""
    bad = pc.is_valid(table["problem"])
    if not pc.any(bad).as_py():
        return table
    good, wanted = table["uri"].filter(pc.invert(bad)), table["uri"].filter(bad).to_pylist()
    names: list[str] = wanted
    free, looked_at = Counter[str](), set[str]()
    while not looked_at.issuperset(names):
        looked_at.update(names)
        taken = set(good.filter(pc.is_in(good, value_set=pa.array(sorted(looked_at)))).to_pylist())
        free, names = Counter(), []
        for uri in wanted:
            name = uri
            while name in taken:
                free[uri] += 1
                name = f"{uri}#{free[uri]}"
            taken.add(name)
            names.append(name)
    rows = pc.replace_with_mask(table["uri"].combine_chunks(), bad.combine_chunks(), pa.array(names, pa.string()))
    return table.set_column(0, "uri", rows)
