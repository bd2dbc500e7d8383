"""Near duplicates against all pairs, and on photographs."""

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from ambient.curate.duplicates import DISTANCE, near_duplicates, phash
from PIL import Image


@pytest.mark.parametrize("seed", range(10))
def test_against_all_pairs(seed: int) -> None:
    """Hashes in chains of 0 to 6 changed bits, with nulls: the leader is the first that can be reached."""
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


def test_nothing_to_compare() -> None:
    assert near_duplicates(pa.chunked_array([pa.nulls(3, pa.string())])).tolist() == [-1] * 3
    assert near_duplicates(pa.chunked_array([], pa.string())).tolist() == []


def test_copies_of_photographs_are_near_and_others_are_not() -> None:
    names = ["astronaut", "chelsea", "coffee", "rocket"]
    hashes = []
    for name in names:
        image = Image.fromarray(getattr(skimage.data, name)())
        copies = (image, image.resize((200, 150)), image.resize((321, 240), Image.Resampling.BILINEAR))
        hashes += [phash(np.asarray(copy)) for copy in copies]
    assert len(hashes[0]) == 16
    assert near_duplicates(pa.chunked_array([hashes])).tolist() == [-1, 0, 0, -1, 3, 3, -1, 6, 6, -1, 9, 9]
