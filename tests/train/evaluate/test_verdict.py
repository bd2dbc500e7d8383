"""When a difference is called one: against scipy's paired test, and where nothing differs."""

import numpy as np
import pytest
from ambient.train.evaluate.verdict import by_heart, compare_arms, mean_of, verdicts
from scipy import stats


def result(arm: str, seed: int, value: float, error: float = 0.01) -> dict:
    measured = {"value": value, "error": error, "low": value - 1.645 * error, "high": value + 1.645 * error}
    return {"arm": arm, "seed": seed, "measures": {"frechet": measured}}


def arm(name: str, values: list[float], error: float = 0.01) -> dict[int, dict]:
    return {seed: result(name, seed, value, error) for seed, value in enumerate(values)}


def test_the_interval_over_seeds_is_students() -> None:
    values = [3.0, 3.4, 2.9, 3.1]
    found = mean_of(list(arm("a", values).values()), "frechet")
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high))
    assert mean_of([result("a", 0, 5.0, 0.2)], "frechet").half == pytest.approx(0.2 * 1.645)


@pytest.mark.parametrize("values", [[10.0, 10.001], [0.0, 0.0, 0.0]])
def test_seeds_that_fall_together_do_not_hide_the_samples_chance(values: list[float]) -> None:
    """The interval of a mean of n is that of one sample's over the root of n, at least."""
    found = mean_of(list(arm("a", values, error=0.05).values()), "frechet")
    assert found.half == pytest.approx(0.05 * 1.645 / len(values) ** 0.5)
    uneven = [result("a", 0, 1.0, 0.3), result("a", 1, 1.0, 0.4)]
    assert mean_of(uneven, "frechet").half == pytest.approx(0.25 * 1.645)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_the_verdict_is_that_of_the_paired_test(shift: float) -> None:
    random = np.random.default_rng(3)
    ours = 4 + random.normal(size=5) * 0.5
    theirs = ours + shift + random.normal(size=5) * 0.1  # seeds shift both alike
    verdict = compare_arms(arm("a", list(ours)), arm("b", list(theirs)), ("a", "b"))
    test = stats.ttest_rel(theirs, ours)
    assert verdict.difference / verdict.error == pytest.approx(test.statistic)
    assert (verdict.said != "within noise") == (test.pvalue < 0.05)


def test_equal_arms_are_called_different_in_one_of_twenty() -> None:
    random = np.random.default_rng(0)
    said = [
        compare_arms(arm("a", list(random.normal(size=3))), arm("b", list(random.normal(size=3))), ("a", "b")).said
        for _ in range(600)
    ]
    assert np.mean([word != "within noise" for word in said]) == pytest.approx(0.05, abs=0.03)


def test_better_is_lower_and_the_samples_chance_is_the_least_error() -> None:
    assert compare_arms(arm("a", [1.0, 1.1, 0.9]), arm("b", [3.0, 3.1, 2.9]), ("a", "b")).said == "better"
    assert compare_arms(arm("a", [3.0, 3.1, 2.9]), arm("b", [1.0, 1.1, 0.9]), ("a", "b")).said == "worse"
    noisy = compare_arms(arm("a", [1.0, 1.0, 1.0], 2.0), arm("b", [3.0, 3.0, 3.0], 2.0), ("a", "b"))
    assert noisy.said == "within noise"
    assert noisy.error == pytest.approx(np.sqrt(3 * (4 + 4)) / 3)


def test_one_seed_says_so_and_seeds_are_paired() -> None:
    one = compare_arms(arm("a", [1.0]), arm("b", [3.0]), ("a", "b"))
    assert one.said == "one seed"
    assert "one seed does not tell a from b, as chance in training is not known" in one.sentence()
    assert "Frechet distance -2 " in one.sentence()
    assert compare_arms({0: result("a", 0, 1.0)}, {1: result("b", 1, 3.0)}, ("a", "b")) is None
    found = verdicts([result("clean", 0, 2.0), result("ambient", 0, 1.0), result("all", 0, 1.001)])
    assert [(verdict.other, verdict.said) for verdict in found] == [("clean", "one seed"), ("all", "within noise")]


def test_a_single_seed_may_borrow_the_spread_of_others() -> None:
    ours, theirs = arm("a", [1.0]), arm("b", [3.0])
    borrowed = compare_arms(ours, theirs, ("a", "b"), spread=(0.6, 2))
    assert borrowed.error == 0.6
    assert borrowed.said == "within noise"  # 2 / 0.6 = 3.3 is less than Student's 4.3 of two degrees of freedom
    assert compare_arms(ours, theirs, ("a", "b"), spread=(0.4, 2)).said == "better"
    several = arm("a", [1.0, 1.1, 0.9]), arm("b", [3.0, 3.2, 2.8])
    assert compare_arms(*several, ("a", "b"), spread=(9.0, 2)) == compare_arms(*several, ("a", "b"))


def denoised(name: str, seed: int, taught: float, error: float = 0.001) -> dict:
    """Of 40 clean and 100 other pictures, of which 10, 49, 51, 100 are usable at four noise levels."""
    levels = [0.1, 0.5, 2.0, 9.0]
    usable = {"sigma": levels, "pictures": [50, 89, 91, 140] if name == "ambient" else [40] * 4}
    # Ten of the others are as good as clean: usable everywhere, and yet not among what clean alone trains on.
    about = {"everywhere": 50, "pictures": 140 if name == "ambient" else 40, "usable": usable}
    others = {"sigma": levels, "mean": [1.0, 2.0, 3.0, 4.0], "error": [error] * 4}
    known = {"sigma": levels, "mean": [0.1, 0.1, 3.0 * taught, 0.1], "error": [error] * 4}
    return {**result(name, seed, 1.0), **about, "validation": others, "validation_taught": known}


def test_what_clean_alone_knows_by_heart_where_half_of_the_others_can_be_used() -> None:
    found = by_heart([denoised("clean", 0, 0.6), denoised("ambient", 0, 1.0)])
    assert found is not None
    assert (found.sigma, found.share) == (2.0, pytest.approx(0.6))
    assert found.error == pytest.approx(0.6 * np.hypot(0.001 / (0.6 * 3), 0.001 / 3))
    assert found.sentence().startswith("clean alone errs 0.60 (+- 0.00) times as much on its own pictures")
    assert "at noise level 2," in found.sentence()


def test_its_error_is_that_of_the_seeds_where_they_differ() -> None:
    shares = [0.5, 0.85, 1.3]
    found = by_heart(
        [*(denoised("clean", seed, share) for seed, share in enumerate(shares)), denoised("ambient", 0, 1)]
    )
    assert found is not None
    assert found.share == pytest.approx(np.mean(shares))
    assert found.error == pytest.approx(stats.sem(shares))


def test_it_is_not_told_without_levels_or_arms_or_measurement() -> None:
    clean, ambient = denoised("clean", 0, 0.5), denoised("ambient", 0, 1.0)
    assert by_heart([clean]) is None
    assert by_heart([ambient]) is None
    rarely = {**ambient, "usable": {**ambient["usable"], "pictures": [40, 40, 40, 60]}}
    assert by_heart([clean, rarely]) is None
    alone = {**ambient, "pictures": 40}
    assert by_heart([clean, alone]) is None
    old = {key: value for key, value in clean.items() if key != "validation_taught"}
    assert by_heart([old, ambient]) is None
    assert by_heart([old, denoised("clean", 1, 0.5), ambient]) is not None  # a comparison that was begun before
