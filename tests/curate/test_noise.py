"""Counter-based noise: the published integers, the right distributions, and no dependence on batch or order."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from ambient.curate.noise import Purpose, name_of, names_of, normals, philox4x32, uniforms, words
from scipy import stats
from torch import Tensor

NAMES = torch.arange(-20, 20, dtype=torch.int64) * 7_919_000_000_000 + 3
SHAPES = [normals, uniforms, words]


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


# Random123's known-answer file (kat_vectors, philox4x32 10): counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "result"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_published_vectors(counter: str, key: str, result: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in hexadecimal(counter))
    k0, k1 = hexadecimal(key)
    assert [int(word) for word in philox4x32((c0, c1, c2, c3), (k0, k1))] == hexadecimal(result)


def test_counter_words_are_block_stream_and_name() -> None:
    """Written out by hand for one name: all of its 64 bits, the index and the purpose are in the counter."""
    name, seed, index = -0x0123456789ABCDF0, 0xFEDCBA9876543210, 0x0ABCDEF
    bits = name & (2**64 - 1)
    stream = index | int(Purpose.FRESH) << 28
    expected = []
    for block in range(3):
        counter = tuple(torch.tensor([word]) for word in (block, stream, bits & 0xFFFFFFFF, bits >> 32))
        expected += [int(word) for word in philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))]
    found = words(torch.tensor([name]), 10, seed=seed, purpose=Purpose.FRESH, index=index)
    assert found[0].tolist() == expected[:10]


def test_normals_are_standard_normal() -> None:
    values = normals(NAMES, 5000, seed=1, purpose=Purpose.FIXED)
    assert values.dtype == torch.float32
    assert stats.kstest(values.flatten().numpy(), "norm").pvalue > 0.01
    assert stats.kstest((values[:20].sum(dim=0) / math.sqrt(20)).numpy(), "norm").pvalue > 0.01


def test_neighbours_are_independent() -> None:
    values = normals(NAMES, 5000, seed=2, purpose=Purpose.FIXED)
    for lag in range(1, 5):
        pairs = values[:, :-lag].flatten(), values[:, lag:].flatten()
        for one, other in (pairs, (pairs[0].square(), pairs[1].square())):
            assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 4 / math.sqrt(len(one))
    between = torch.corrcoef(values)
    assert float((between - torch.eye(len(NAMES))).abs().max()) < 6 / math.sqrt(5000)


def test_uniforms_lie_inside_0_and_1_and_are_uniform() -> None:
    values = uniforms(NAMES, 5000, seed=1, purpose=Purpose.DRAW)
    assert values.dtype == torch.float64
    assert 0 < values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 0.01


def test_extreme_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest and the highest words give neither 0 nor 1, nor an infinite normal."""
    for word in (0, 2**32 - 1):
        monkeypatch.setattr("ambient.curate.noise.philox4x32", lambda counter, key, w=word: [torch.tensor(w)] * 4)
        assert 0 < float(uniforms(NAMES[:1], 1, seed=0, purpose=Purpose.DRAW)) < 1
        assert normals(NAMES[:1], 4, seed=0, purpose=Purpose.DRAW).abs().max() < 7


@pytest.mark.parametrize("function", SHAPES)
@pytest.mark.parametrize("count", [1, 3, 4, 5, 37])
def test_any_batch_any_order_any_prefix(function, count: int) -> None:
    whole = function(NAMES, 64, seed=3, purpose=Purpose.CURVE, index=5)[:, :count]
    order = torch.randperm(len(NAMES), generator=torch.Generator().manual_seed(0))
    parts = [function(part, count, seed=3, purpose=Purpose.CURVE, index=5) for part in torch.split(NAMES[order], 7)]
    assert torch.equal(torch.cat(parts), whole[order])


def test_large_counts_are_cut_into_chunks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.arange(len(NAMES))
    whole = normals(NAMES, 100, seed=3, purpose=Purpose.CURVE, index=index)
    monkeypatch.setattr("ambient.curate.noise._CHUNK", 100)  # four names at a time
    assert torch.equal(normals(NAMES, 100, seed=3, purpose=Purpose.CURVE, index=index), whole)


@pytest.mark.parametrize("function", SHAPES)
def test_seed_purpose_index_and_name_name_a_stream(function) -> None:
    seeds, purposes, indices = (0, 1, 1 << 32, -1), list(Purpose), (0, 1, 1 << 14, (1 << 28) - 1)
    names = torch.tensor([0, 1, 1 << 32, -1])
    streams = {}
    for seed, purpose, index in itertools.product(seeds, purposes, indices):
        rows = function(names, 4, seed=seed, purpose=purpose, index=index)
        for name, row in zip(names.tolist(), rows.tolist(), strict=True):
            streams[seed, purpose, index, name] = tuple(row)
    assert len(set(streams.values())) == len(streams)


def test_index_per_name() -> None:
    index = torch.arange(len(NAMES)) * 3
    together = normals(NAMES, 6, seed=0, purpose=Purpose.FIT, index=index)
    alone = [
        normals(name[None], 6, seed=0, purpose=Purpose.FIT, index=int(i)) for name, i in zip(NAMES, index, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_no_names_and_no_numbers() -> None:
    assert normals(NAMES[:0], 5, seed=0, purpose=Purpose.FIT).shape == (0, 5)
    assert normals(NAMES, 0, seed=0, purpose=Purpose.FIT).shape == (40, 0)


def test_names_are_the_first_half_of_content_ids() -> None:
    content_id = "0100000000000080" + "f" * 16
    assert name_of(content_id) == -(2**63) + 1
    assert name_of("ff" + "0" * 30) == 255
    assert names_of([content_id, "ff" + "0" * 30]).tolist() == [-(2**63) + 1, 255]
    random = np.random.default_rng(0)
    ids = [random.bytes(16).hex() for _ in range(1000)]
    assert len(set(names_of(ids).tolist())) == 1000


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_compiled_words_are_the_same() -> None:
    # Products that overflowed were undefined to it: with PyTorch 2.11 words of names beyond 32 bits were others.
    names = torch.cat([NAMES, torch.tensor([-(2**63), 2**63 - 1, -1])])

    def both(names: Tensor) -> Tensor:
        return words(names, 64, seed=0xFEDCBA9876543210, purpose=Purpose.FRESH)

    assert torch.equal(torch.compile(both, dynamic=False)(names), both(names))


def test_a_seed_may_be_a_tensor() -> None:
    seeds = (3, 2**40 + 5)
    for seed in seeds:
        plain, told = (normals(NAMES, 5, seed=s, purpose=Purpose.FIT) for s in (seed, torch.tensor(seed)))
        assert torch.equal(plain, told)


@pytest.mark.gpu
def test_cuda_gives_the_same_integers_and_nearly_the_same_normals() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def both(function) -> tuple[Tensor, Tensor]:
        arguments = {"seed": 0xFEDCBA9876543210, "purpose": Purpose.CURVE}
        index = torch.arange(len(NAMES))
        on_cpu = function(NAMES, 4099, index=index, **arguments)
        return on_cpu, function(NAMES.cuda(), 4099, index=index.cuda(), **arguments).cpu()

    for function in (words, uniforms):
        torch.testing.assert_close(*both(function), rtol=0, atol=0)
    torch.testing.assert_close(*both(normals), rtol=1e-6, atol=1e-6)
