"""Near duplicates against all pairs, and on photographs."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from ambient.curate import duplicates
from ambient.curate.duplicates import DISTANCE, near_duplicates, phash
from PIL import Image


@pytest.mark.parametrize("cells", [duplicates._CELLS, 5])
@pytest.mark.parametrize("seed", range(10))
def test_against_all_pairs(seed: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes in chains of 0 to 6 changed bits, with nulls: the leader is the first that can be reached."""
    monkeypatch.setattr(duplicates, "_CELLS", cells)
    random = np.random.default_rng(seed)
    values: list[int | None] = []
    for _ in range(40):
        base = int(random.integers(0, 2**63))
        for _ in range(int(random.integers(1, 4))):
            for bit in random.choice(64, int(random.integers(0, 7)), replace=False):
                base ^= 1 << int(bit)
            values.append(base)
    values += [None, None, values[0]]
    random.shuffle(values)
    expected = np.full(len(values), -1)
    reach = list(range(len(values)))
    for _ in values:  # long enough for the longest chain
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                if a is not None and b is not None and (a ^ b).bit_count() <= DISTANCE:
                    reach[i] = min(reach[i], reach[j])
    for i, value in enumerate(values):
        if value is not None and reach[i] != i:
            expected[i] = reach[i]
    hashes = pa.chunked_array([[None if v is None else f"{v:016x}" for v in values]], pa.string())
    assert near_duplicates(hashes).tolist() == expected.tolist()


@pytest.mark.parametrize("cells", [60, 200, 1000])
def test_all_of_one_band_against_all_pairs(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 hashes in blocks of one row, of two and of ten; the partners are 50 apart."""
    monkeypatch.setattr(duplicates, "_CELLS", cells)
    values = np.random.default_rng(0).integers(0, 2**24, 100, dtype=np.uint64) << np.uint64(24)
    values[50:] = values[:50] ^ np.uint64(1 << 63 | 1 << 40 | 1 << 20)
    distances = np.bitwise_count(values[:, None] ^ values[None, :])
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(distances <= DISTANCE, 1)), strict=True)}
    found = {
        (min(pair), max(pair)) for pair in zip(*(side.tolist() for side in duplicates._close(values)), strict=True)
    }
    assert found == expected and len(found) >= 50


def test_memory_does_not_grow_with_the_square_of_a_band() -> None:
    """8,000 alike in one band; the last 100 repeat the first, with a bit changed in each other band."""
    values = np.random.default_rng(0).integers(0, 2**48, 8000, dtype=np.uint64) << np.uint64(16)
    values[-100:] = values[:100] ^ np.uint64(1 << 63 | 1 << 40 | 1 << 20)
    hashes = pa.chunked_array([[f"{value:016x}" for value in values.tolist()]])
    tracemalloc.start()
    found = near_duplicates(hashes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[-100:].tolist() == list(range(100)) and set(found[:-100].tolist()) == {-1}
    assert peak < 100e6  # all distances at once: 512e6


def test_nothing_to_compare() -> None:
    assert near_duplicates(pa.chunked_array([pa.nulls(3, pa.string())])).tolist() == [-1] * 3
    assert near_duplicates(pa.chunked_array([], pa.string())).tolist() == []


def test_flat_pictures_are_not_all_the_same() -> None:
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 255)]
    assert [phash(pixels) for pixels in flat] == [None] * 3
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    assert phash(ramp // 8) is not None


def test_copies_of_photographs_are_near_and_others_are_not() -> None:
    names = ["astronaut", "chelsea", "coffee", "rocket"]
    hashes = []
    for name in names:
        image = Image.fromarray(getattr(skimage.data, name)())
        copies = (image, image.resize((200, 150)), image.resize((321, 240), Image.Resampling.BILINEAR))
        hashes += [phash(np.asarray(copy)) for copy in copies]
    assert len(hashes[0]) == 16
    assert near_duplicates(pa.chunked_array([hashes])).tolist() == [-1, 0, 0, -1, 3, 3, -1, 6, 6, -1, 9, 9]
