"""Tables of the page of results, in Markdown."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ablations
from ablations import ABLATIONS
from ambient.train.evaluate.verdict import mean_of

ARMS = {
    "clean": "clean only",
    "undamaged": "all undamaged",
    "all": "all as equal",
    "fixed": "one fixed sigma_min",
    "ambient": "thresholds, the paper's draw",
    "kept": "thresholds, composition kept",
    "kept-plain": "thresholds, composition kept, plain target",
    "source": "one threshold for each source",
    "hi": "the upper ends of thresholds",
    "kept-before": "thresholds, composition kept (before)",
    "kept-plain-before": "thresholds, composition kept, plain target (before)",
}
OURS = ("kept", "kept-plain", "ambient", "source", "hi", "kept-before", "kept-plain-before")
"""Arms that obey thresholds found for pictures or their sources, the trainer's default first."""
TRAINED = {
    "clean": "lambda |D - w_0|^2 of the clean pictures",
    "undamaged": "lambda |D - w_0|^2 of all pictures as they were before any damage: how much there is to gain",
    "all": "lambda |D - w_0|^2 of all pictures, at every noise level",
    "fixed": "as ambient, one sigma_min for all that is damaged: where the mean curve crosses, of sources the median",
    **{label: change.formula for label, change in ABLATIONS.items()},
    "kept-before": "as kept by the draw of before 2026-11-30: one of all that are usable as often as one of those not "
    "usable everywhere is usable, else one of those usable everywhere",
    "kept-plain-before": "as kept-plain, by that draw",
}
"""Label -> what is trained."""

Result = dict[str, Any]
Labels = dict[str, dict[int, Result]]
"""Label -> seed -> run."""
Rows = dict[str, Labels]

_EVERY = 2  # noise levels of which one is shown
_RECORDS = "../benchmarks/proof/results"


def formulas(labels: Iterable[str]) -> str:
    """What is trained under each label that occurs, said once for the whole page."""
    found = set(labels)
    rows = [[label, f"`{_escaped(formula)}`"] for label, formula in TRAINED.items() if label in found]
    about = " ".join(line.strip() for line in (ablations.__doc__ or "").splitlines() if line.strip())
    return f"{about}\n\n{table(['label', 'what is trained'], rows)}"


def main_table(found: Rows) -> str:
    """Arms of which nothing is recorded have no column."""
    rows, copies = [], copies_measure(found)
    arms = [label for label in ARMS if any(labels.get(label) for labels in found.values())]
    counted = [label for label in ("clean", *OURS) if label in arms]
    for name, labels in found.items():
        distances = [_value(labels.get(label, {}), "frechet") for label in arms]
        rows.append([name, *distances, *(_value(labels.get(label, {}), copies, 100) for label in counted)])
    heads = ["damage", *(ARMS[label] for label in arms), *(f"{copies_head(found)}: {ARMS[label]}" for label in counted)]
    return "Frechet distance (lower is better):\n\n" + table(heads, rows)


def curve_table(found: Rows) -> str:
    """Frechet distance on the way, mean over seeds: who stops early has that one."""
    rows, moments, samples = [], [], 0
    for name, labels in found.items():
        for label in _ordered(labels):
            curves = [run["curve"] for run in labels[label].values()]
            moments, samples = [point["images"] for point in curves[0]], curves[0][0]["samples"]
            means = [
                sum(point["frechet"]["value"] for point in points) / len(points) for points in zip(*curves, strict=True)
            ]
            rows.append([name, label, *(f"{mean:.3g}" for mean in means), str(len(curves))])
    what = f"On the way: Frechet distance of {samples:,} samples after so many training pictures, mean over seeds"
    heads = ["damage", "label", *(f"{moment:,}" for moment in moments), "seeds"]
    return f"{what}:\n\n{table(heads, rows)}" if rows else ""


def ablation_table(found: Rows) -> str:
    rows, copies = [], copies_measure(found)
    for name, labels in found.items():
        if _has_ablations(labels):
            rows += [
                [name, label, _value(labels[label], "frechet"), _value(labels[label], copies, 100)]
                for label in _ordered(labels)
            ]
    heads = ["damage", "label", "Frechet distance", copies_head(found)]
    return f"Ambient with one thing changed, and the other arms:\n\n{table(heads, rows)}" if rows else ""


def known_table(found: Rows) -> str:
    """Denoising error on training pictures as a share of that on others alike, mean over seeds."""
    rows, levels = [], []
    for name, labels in found.items():
        for label in _ordered(labels) if _has_ablations(labels) else ():
            for which, both in _known(labels[label].values()).items():
                levels = both[0][0]["sigma"]
                columns = zip(*(_shares(known, unknown) for known, unknown in both), strict=True)
                rows.append([name, label, which, *(f"{sum(column) / len(column):.3f}" for column in columns)])
    what = "What is known by heart: denoising error on training pictures over that on others alike, by noise level"
    return f"{what}:\n\n{table(['damage', 'label', 'pictures', *_levels(levels)], rows)}" if rows else ""


def _known(runs: Iterable[Result]) -> dict[str, list[tuple[Result, Result]]]:
    """Errors on training pictures and on others, of each run, for the kinds of pictures that there are."""
    found = [run for run in runs if "known" in run]
    pairs = {
        "undamaged": [(run["known"]["clean"], run["validation"]) for run in found],
        "damaged": [
            (run["known"]["damaged"], run["known"]["damaged_unknown"]) for run in found if "damaged" in run["known"]
        ],
    }
    return {which: both for which, both in pairs.items() if both}


def denoising_table(found: Rows) -> str:
    """Denoising error on pictures that nobody trained on, as a share of that of the clean arm, first seed of each."""
    rows, levels = [], []
    for name, labels in found.items():
        clean = labels.get("clean", {})
        for label in _ordered(labels):
            both = sorted(clean.keys() & labels[label].keys())
            if label != "clean" and both:
                ours, theirs = (run[both[0]]["validation"] for run in (labels[label], clean))
                levels = ours["sigma"]
                rows.append([name, label, *(f"{share:.3f}" for share in _shares(ours, theirs))])
    what = "Denoising error on held-out pictures over that of clean only, by noise level"
    return f"{what}:\n\n{table(['damage', 'label', *_levels(levels)], rows)}" if rows else ""


def runs_table(runs: list[Result]) -> str:
    names = ("frechet", "kernel", "precision", "recall", "density", "coverage")
    rows = []
    for run in sorted(runs, key=lambda run: (run["row"], run["label"], run["seed"])):
        values = [f"{run['measures'][name]['value']:.3g}" for name in names]
        about = f"{run['row']} {run['label']} {run['seed']}"
        speed = f"{run['images_per_s']:,.0f} ({run.get('trainers', 1)})"
        rows.append([_link(about, run), run["date"], *values, speed, f"{run['judged_s']:.0f}"])
    heads = ["run", "date", "Frechet", *names[1:], "pictures/s (trainings at once)", "measured in s"]
    return "Every run:\n\n" + table(heads, rows)


def annotation_table(records: list[Result]) -> str:
    """Thresholds of what is damaged, of each annotation."""
    keys = ("mean", "p10", "median", "p90", "fixed")
    rows = []
    for record in records:
        sigmas = [f"{record[key]:.3g}" for key in keys]
        counts = [f"{record['pictures']:,}", *sigmas, f"{record['never']:,}", f"{record['seconds']:,.0f}"]
        rows.append([_link(f"{record['proof']} {record['row']}", record), *counts, record["hardware"], record["date"]])
    heads = ["damage", "damaged pictures", "sigma_min: mean", "10 %", "median", "90 %", "one for all"]
    return table([*heads, "never used", "seconds", "on", "date"], rows)


def plus_minus(value: float, half: float) -> str:
    """A value and half of its interval, which has one digit, or two that begin with 1 or 2."""
    if not 0 < half < math.inf:
        return f"{value:.3g}"
    power = math.floor(math.log10(half))
    places = max(0, (1 if half < 3 * 10**power else 0) - power)
    return f"{value:.{places}f} +- {half:.{places}f}"


def _value(seeds: dict[int, Result], measure: str, factor: float = 1.0) -> str:
    """A mean over seeds with its interval and, in brackets, their number."""
    if not seeds:
        return ""
    mean = mean_of(list(seeds.values()), measure)
    return f"{plus_minus(factor * mean.value, factor * mean.half)} ({mean.seeds})"


def copies_measure(found: Rows) -> str:
    """Of clean pictures for every arm where all runs have that: among more pictures the rule finds fewer copies."""
    every = [run for labels in found.values() for runs in labels.values() for run in runs.values()]
    return "memorised_clean" if all("memorised_clean" in run["measures"] for run in every) else "memorised"


def copies_head(found: Rows) -> str:
    """Whether copies were counted of the clean pictures alone or of all that a run trained on: as its record says."""
    runs = [run for labels in found.values() for label in labels if label != "clean" for run in labels[label].values()]
    whole = {run.get("memorised_among", {}).get("pictures", 0) >= run["pictures"] for run in runs} or {False}
    if copies_measure(found) == "memorised_clean":
        whole = {False}
    return f"copies of {' or '.join('training' if of_all else 'clean' for of_all in sorted(whole))} pictures, %"


def _shares(some: Result, others: Result) -> list[float]:
    """Errors over others, of the noise levels that are shown."""
    return [a / b for a, b in zip(some["mean"], others["mean"], strict=True)][::_EVERY]


def _levels(levels: list[float]) -> list[str]:
    return [f"{level:.2g}" for level in levels[::_EVERY]]


def _ordered(labels: Labels) -> list[str]:
    return [label for label in TRAINED if labels.get(label)]


def _has_ablations(labels: Labels) -> bool:
    return bool(set(labels) & (set(ABLATIONS) - set(OURS)))


def _link(text: str, record: Result) -> str:
    return f"[{text}]({_RECORDS}/{Path(record['file']).name})"


def _escaped(formula: str) -> str:
    return formula.replace("|", "\\|")  # else it would part cells


def table(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
