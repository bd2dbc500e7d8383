"""What results of several arms and seeds say together, and whether a difference is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Result = dict[str, Any]
"""What ``compare`` recorded of one arm and seed."""

RULE = (
    "An arm is called better or worse where the 95 % interval of the mean difference of the Frechet distance leaves 0 "
    "out: Student's t over the seeds, whose runs are paired, with the samples' own chance as the least standard error. "
    "Of a single seed only that chance is known, not that of training: what is beyond it is called one seed."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """Of one measure over seeds. half: half the width of its 90 % interval."""

    value: float
    half: float
    seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A difference of arms, other - arm, with its standard error.

    said: ``better``, ``worse``, ``within noise``, or ``one seed`` where more than one would have to tell.
    """

    arm: str
    other: str
    difference: float
    error: float
    seeds: int
    said: str

    def sentence(self) -> str:
        """For people."""
        said = {
            "better": f"{self.arm} is better than {self.other}",
            "worse": f"{self.arm} is worse than {self.other}",
            "within noise": f"{self.arm} differs within noise from {self.other}",
            "one seed": f"one seed does not tell {self.arm} from {self.other}, as chance in training is not known",
        }
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{said[self.said]}: Frechet distance {-self.difference:+.4g} (standard error {self.error:.2g}, {seeds})"


@dataclass(frozen=True, kw_only=True, slots=True)
class ByHeart:
    """How well the arm of the clean pictures alone knows these by heart, where others could take part.

    sigma: the lowest of the measured noise levels at which half of the other pictures are usable. share: its denoising
    error there on clean pictures that it was trained on, over that on unknown ones, mean over seeds. error: its
    standard error, by the pictures or by the seeds, whichever is larger.
    """

    sigma: float
    share: float
    error: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"clean alone errs {self.share:.2f} (+- {2 * self.error:.2f}) times as much on its own pictures as on "
            f"unknown ones at noise level {self.sigma:.2g}, from which on half of the others can be used: 1 is nothing "
            "learnt by heart there"
        )


def by_heart(results: Sequence[Result]) -> ByHeart | None:
    """Of the clean arm of a comparison; None where nothing of that was measured, or half is usable at no level."""
    arms = by_arm(results)
    clean = [result for result in arms.get("clean", {}).values() if "validation_taught" in result]
    ambient = next(iter(arms.get("ambient", {}).values()), None)
    if not clean or ambient is None:
        return None
    others = ambient["pictures"] - clean[0]["pictures"]
    usable = zip(ambient["usable"]["sigma"], ambient["usable"]["pictures"], strict=True)
    levels = [sigma for sigma, count in usable if count - clean[0]["pictures"] >= others / 2]
    if others <= 0 or not levels:
        return None
    at = clean[0]["validation"]["sigma"].index(levels[0])
    shares, errors = [], []
    for result in clean:
        (taught, taught_error), (unknown, unknown_error) = (
            (result[part]["mean"][at], result[part]["error"][at]) for part in ("validation_taught", "validation")
        )
        shares.append(taught / unknown)
        errors.append(shares[-1] * float(np.hypot(taught_error / taught, unknown_error / unknown)))
    error = max(errors)  # all seeds are measured on the same pictures, whose chance does not average out
    if len(shares) > 1:
        error = max(error, float(np.std(shares, ddof=1)) / len(shares) ** 0.5)
    return ByHeart(sigma=levels[0], share=float(np.mean(shares)), error=error)


def mean_of(results: Sequence[Result], measure: str) -> Mean:
    """A measure over the seeds of one arm: Student's interval, but never narrower than the samples' own chance.

    Of one seed, that chance alone. Two seeds may fall together, and shares may be 0 in all.
    """
    from scipy.stats import t

    found = [result["measures"][measure] for result in results]
    values = np.array([measured["value"] for measured in found])
    halves = np.array([(measured["high"] - measured["low"]) / 2 for measured in found])
    half = float((halves**2).sum()) ** 0.5 / len(values)
    if len(values) > 1:
        half = max(half, float(t.ppf(0.95, len(values) - 1) * values.std(ddof=1)) / len(values) ** 0.5)
    return Mean(value=float(values.mean()), half=half, seeds=len(values))


def compare_arms(
    arm: Mapping[int, Result],
    other: Mapping[int, Result],
    names: tuple[str, str],
    *,
    spread: tuple[float, int] | None = None,
) -> Verdict | None:
    """Whether ``arm`` is better than ``other``, by RULE, over the seeds that both have; None where there is none.

    spread: standard deviation over seeds of such a difference, and its degrees of freedom, known from elsewhere: it
    counts where there is a single seed.
    """
    from scipy.stats import norm, t

    seeds = sorted(arm.keys() & other.keys())
    if not seeds:
        return None
    pairs = [(arm[seed]["measures"]["frechet"], other[seed]["measures"]["frechet"]) for seed in seeds]
    differences = np.array([theirs["value"] - ours["value"] for ours, theirs in pairs])
    chance = float(sum(ours["error"] ** 2 + theirs["error"] ** 2 for ours, theirs in pairs)) ** 0.5 / len(seeds)
    error, width = chance, float(norm.ppf(0.975))
    if len(seeds) > 1:
        spread = float(differences.std(ddof=1)), len(seeds) - 1
    if spread is not None:
        error = max(chance, spread[0] / len(seeds) ** 0.5)
        width = float(t.ppf(0.975, spread[1]))
    mean = float(differences.mean())
    said = "within noise" if abs(mean) <= width * error else "better" if mean > 0 else "worse"
    if said != "within noise" and len(seeds) == 1 and spread is None:
        said = "one seed"
    return Verdict(arm=names[0], other=names[1], difference=mean, error=error, seeds=len(seeds), said=said)


def by_arm(results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Arm -> seed -> result, arms in the order in which they came first."""
    out: dict[str, dict[int, Result]] = {}
    for result in results:
        out.setdefault(result["arm"], {})[result["seed"]] = result
    return out


def verdicts(results: Sequence[Result], arm: str = "ambient") -> list[Verdict]:
    """Of one arm against each other one."""
    arms = by_arm(results)
    found = [compare_arms(arms.get(arm, {}), arms[other], (arm, other)) for other in arms if other != arm]
    return [verdict for verdict in found if verdict is not None]
