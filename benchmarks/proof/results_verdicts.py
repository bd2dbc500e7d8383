"""Whether thresholds help: tables of arms against each other, and whether the goal is reached."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ambient.train.evaluate.verdict import Verdict, compare_arms
from results_tables import ARMS, OURS, Labels, Result, Rows, table

_CLAIM = "kept"
_GOAL_ERRORS = 2.0  # standard errors
_GOAL_PERCENT = {"blur-0.6": 15.0}  # of the distance of clean only


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One arm against another over the seeds of both, below 0 where its distance is less.

    percent: of the other's distance. errors: the difference in standard errors.
    """

    verdict: Verdict
    percent: float
    errors: float


def claim_table(found: Rows) -> str:
    """What thresholds are for, row by row: those with the composition kept, which is the trainer's default."""
    rows, spread, others = [], relative_spread(found), ("clean", "all", "fixed")
    for name, labels in found.items():
        if labels.get(_CLAIM):
            against = {other: _compared(labels, _CLAIM, other, spread) for other in others}
            rows.append([name, *map(_claimed, against.values()), _goal(name, against["clean"], against["all"])])
    percents = "".join(f" and by {percent:g} % on {name}," for name, percent in _GOAL_PERCENT.items())
    what = (
        f"The claim: Frechet distance of {ARMS[_CLAIM]} (`{_CLAIM}`) against that of others, below 0 where it is less; "
        "in brackets the same difference in standard errors, and the seeds. "
        f"The goal: better than {ARMS['clean']} by more than {_GOAL_ERRORS:g} standard errors,{percents} and worse "
        f"than {ARMS['all']} by no more than {_GOAL_ERRORS:g}"
    )
    heads = ["damage", *(f"against {ARMS[other]}" for other in others), "the goal is"]
    return f"{what}:\n\n{table(heads, rows)}" if rows else ""


def _claimed(compared: Compared | None) -> str:
    if compared is None:
        return ""
    seeds = compared.verdict.seeds
    return f"{compared.percent:+.1f} % ({compared.errors:+,.1f}; {seeds} seed{'s' * (seeds > 1)})"


def _goal(name: str, clean: Compared | None, everything: Compared | None) -> str:
    """Whether it is reached, else against whom it is not."""
    missed = []
    if clean and (clean.errors >= -_GOAL_ERRORS or clean.percent > -_GOAL_PERCENT.get(name, 0.0)):
        missed.append(ARMS["clean"])
    if everything and everything.errors > _GOAL_ERRORS:
        missed.append(ARMS["all"])
    if missed:
        return f"missed against {' and '.join(missed)}"
    return "reached" if clean and everything else "not measured"


def verdict_table(found: Rows) -> str:
    """What obeys thresholds against what does not: the difference, in percent, in standard errors, and its name."""
    rows, spread = [], relative_spread(found)
    for own in OURS:
        for other in (label for label in ARMS if label not in (*OURS, "undamaged")):  # which nobody has
            rows += [row for name, labels in found.items() if (row := _verdict(name, labels, own, other, spread))]
    heads = ["damage", "arm", "against", "difference", "in percent", "in standard errors", "seeds", "it is"]
    return f"Thresholds against the other arms (below 0 they are better):\n\n{table(heads, rows)}" if rows else ""


def _verdict(name: str, labels: Labels, own: str, other: str, spread: tuple[float, int] | None) -> list[str]:
    """A line of the table, or nothing where one of the arms is missing."""
    compared = _compared(labels, own, other, spread)
    if compared is None:
        return []
    verdict, percent, errors = compared.verdict, f"{compared.percent:+.1f} %", f"{abs(compared.errors):,.1f}"
    return [name, own, ARMS[other], f"{-verdict.difference:+.3g}", percent, errors, str(verdict.seeds), verdict.said]


def _compared(labels: Labels, own: str, other: str, spread: tuple[float, int] | None) -> Compared | None:
    """None where no seed is of both."""
    ours, theirs = labels.get(own, {}), labels.get(other, {})
    seeds = sorted(ours.keys() & theirs.keys())
    scaled = (spread[0] * _scale(ours, theirs, seeds), spread[1]) if spread and seeds else None
    verdict = compare_arms(ours, theirs, (ARMS[own], ARMS[other]), spread=scaled)
    if verdict is None:
        return None
    percent = -100 * verdict.difference / _mean(theirs, seeds)
    return Compared(verdict=verdict, percent=percent, errors=-verdict.difference / verdict.error)


def relative_spread(found: Rows) -> tuple[float, int] | None:
    """Standard deviation over seeds of a distance as a share of it, pooled over all that was trained several times.

    And its degrees of freedom. Rows differ much in magnitude, and the spread of a distance grows with the distance.
    """
    squares, freedom = 0.0, 0
    arms = [list(seeds.values()) for labels in found.values() for seeds in labels.values() if seeds]
    for runs in {tuple(map(id, runs)): runs for runs in arms}.values():  # what all rows share counts once
        values = [_frechet(run) for run in runs]
        mean = sum(values) / len(values)
        squares += sum((value / mean - 1) ** 2 for value in values)
        freedom += len(values) - 1
    return ((squares / freedom) ** 0.5, freedom) if freedom else None


def _scale(ours: dict[int, Result], theirs: dict[int, Result], seeds: Sequence[int]) -> float:
    """What the spread of the difference of two arms is proportional to, where that of each is to its value."""
    return math.hypot(_mean(ours, seeds), _mean(theirs, seeds))


def _mean(runs: dict[int, Result], seeds: Sequence[int]) -> float:
    return sum(_frechet(runs[seed]) for seed in seeds) / len(seeds)


def _frechet(run: Result) -> float:
    value: float = run["measures"]["frechet"]["value"]
    return value
