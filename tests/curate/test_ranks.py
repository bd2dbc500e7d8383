"""Ranks by DuckDB against their definition, with ties, NULLs, NaNs and groups of one."""

import math

import numpy as np
import pyarrow as pa
import pytest
from ambient.curate.ranks import DEFAULT_SHARE, Top, agreement, best, ranks, top_of
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import RECORD
from manifests import rows
from scipy.stats import spearmanr


def scored(status: list[str] | str = "ok", **columns: list) -> pa.Table:
    """Records with score columns; label and source may be among the columns."""
    record = {name: columns.pop(name) for name in ("label", "source") if name in columns}
    num = len(next(iter(columns.values())))
    table = rows(num, status=status, **record).select(RECORD.names)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.float32()))
    return table


def worse(values: list, i: int, group: list[int]) -> float:
    """The definition: share of the group that is no better; nothing known is the worst."""
    known = [v if v is not None and not math.isnan(v) else None for v in values]
    if known[i] is None:
        return 0.0
    return sum(known[j] is None or known[j] <= known[i] for j in group) / len(group)


def draw(random: np.random.Generator, num: int) -> list:
    """Many ties, some NULLs, NaNs and infinities."""
    values = random.integers(0, 6, num).astype(float).tolist()
    for odd in (None, math.nan, math.inf, -math.inf):
        for place in random.integers(0, num, num // 8):
            values[place] = odd
    return values


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("within", [None, "label", "source"])
def test_ranks_and_choice_against_brute_force(seed: int, within: str | None) -> None:
    random = np.random.default_rng(seed)
    num = int(random.integers(1, 70))
    a, b = draw(random, num), draw(random, num)
    status = random.choice(["ok", "ok", "ok", "unreadable"], num).tolist()
    label = [None if x == 0 else int(x) for x in random.integers(0, 6, num)]
    source = random.choice(["x", "y", "z"], num).tolist()
    table = scored(status, a=a, b=b, label=label, source=source)
    of = {"label": label, "source": source, None: [0] * num}[within]
    groups = [[j for j in range(num) if status[j] == "ok" and of[j] == of[i]] for i in range(num)]
    low = [None if v is None else -v for v in b]
    expected = np.array(
        [(worse(a, i, groups[i]) + worse(low, i, groups[i])) / 2 if status[i] == "ok" else 0.0 for i in range(num)]
    )
    found = ranks(table, ("a", "-b"), within)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    chosen = []
    for value in set(of):
        group = [i for i in range(num) if status[i] == "ok" and of[i] == value]
        count = max(1, round(0.3 * len(group) + 1e-9))
        chosen += [i for i in sorted(group, key=lambda i: (-expected[i], i))[:count] if expected[i] > 0]
    mask = best(table, Top(share=0.3, by=("a", "-b"), within=within))
    assert np.flatnonzero(mask).tolist() == sorted(chosen)


def test_the_best_score_has_the_best_rank() -> None:
    """A permutation in the place of a rank fails."""
    values = np.random.default_rng(0).permutation(50).astype(float)
    found = ranks(scored(a=values.tolist()), ("a",))
    assert found.argmax() == values.argmax()
    assert found.max() == 1.0
    assert np.array_equal(np.argsort(found), np.argsort(values))
    assert np.array_equal(found, ranks(scored(a=np.exp(values / 9).tolist()), ("a",)))


def test_a_group_of_one_has_rank_1_unless_nothing_is_known() -> None:
    table = scored(a=[5.0, None, math.nan, -1.0], source=["w", "x", "y", "z"])
    assert ranks(table, ("a",), "source").tolist() == [1.0, 0.0, 0.0, 1.0]
    assert best(table, Top(share=0.5, by=("a",), within="source")).tolist() == [True, False, False, True]


def test_directions_of_known_measures() -> None:
    table = scored(sharpness=[1.0, 2.0], noise=[1.0, 2.0])
    assert ranks(table, ("sharpness",)).tolist() == [0.5, 1.0]
    assert ranks(table, ("noise",)).tolist() == [1.0, 0.5]
    assert ranks(table, ("-sharpness",)).tolist() == [1.0, 0.5]
    with pytest.raises(UserError, match="neither end of 'brightness'"):
        ranks(scored(brightness=[1.0]), ("brightness",))


def test_default_is_at_least_a_clean_set() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    top = Top(by=("a",))
    assert best(scored(a=values.tolist()), top).sum() == round(DEFAULT_SHARE * 1000)
    assert best(scored(a=values[:30].tolist()), top).sum() == 10
    assert best(scored(a=values[:30].tolist()), Top(share=0.01, by=("a",))).sum() == 1


@pytest.mark.parametrize("by", ["b", "uri", "width", 'a"; SELECT 1; --', "", "-"])
def test_what_is_no_score(by: str) -> None:
    with pytest.raises(UserError, match="there is no score"):
        ranks(scored(a=[1.0]), (by,))


def test_odd_names_of_columns() -> None:
    table = scored(**{'a"b c': [1.0, 2.0], "-z": [1.0, 2.0]})
    assert ranks(table, ('a"b c',)).tolist() == [0.5, 1.0]
    assert ranks(table, ("-z",)).tolist() == [1.0, 0.5]


def test_agreement_against_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 9, 60).astype(float), random.normal(size=60)
    found = agreement(scored(a=a.tolist(), b=b.tolist(), c=[1.0] * 60), ("a", "-b", "c"))
    assert found["a", "-b"] == pytest.approx(spearmanr(a, -b).statistic)
    assert math.isnan(found["a", "c"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((None, None, None), None),
        (("10%", None, None), Top(share=0.1)),
        (("0.25", "a, -b", "label"), Top(share=0.25, by=("a", "-b"), within="label")),
        ((None, "noise", None), Top(by=("noise",))),
    ],
)
def test_options(options: tuple, expected: Top | None) -> None:
    assert top_of(*options) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("ten", None, None), "10% or 0.1"),
        (("100%", None, None), "between 0 and 100%"),
        (("nan", None, None), "between 0 and 100%"),
        (("0", None, None), "between 0 and 100%"),
        ((None, "a,a", None), "each once"),
        ((None, None, "format"), "label or source"),
    ],
)
def test_bad_options(options: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words):
        top_of(*options)


def test_in_words() -> None:
    assert str(Top()) == "the top 5% by undamaged"
    top = Top(share=0.125, by=("a", "-b"), within="label")
    assert str(top) == "the top 12.5% by the mean of the ranks in a, -b within each label"
    assert (
        top_of(
            *[
                dict(zip(top.arguments()[::2], top.arguments()[1::2], strict=True)).get(o)
                for o in ("--clean-top", "--by", "--within")
            ]
        )
        == top
    )
