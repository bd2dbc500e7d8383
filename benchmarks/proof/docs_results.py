"""docs/results.md from the recorded JSON alone: what has no file has no number.

python benchmarks/proof/docs_results.py
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ablations
from ablations import ABLATIONS
from ambient.train.evaluate.verdict import RULE, compare_arms, mean_of
from results_plots import draw_all

RESULTS = Path(__file__).parent / "results"
OUT = Path(__file__).parents[2] / "docs" / "results.md"
ARMS = {
    "clean": "clean only",
    "all": "all as equal",
    "fixed": "one fixed sigma_min",
    "ambient": "ambient",
}
SHARED = "any"

Result = dict[str, Any]
Rows = dict[str, dict[str, dict[int, Result]]]
"""Row -> label -> seed -> run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    read = [json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]
    if not read:
        sys.exit(f"nothing is recorded in {options.results}")
    plots = options.out.parent / options.out.stem
    options.out.write_text(page(read, lambda *which: draw_all(*which, ARMS, options.results, plots)))
    print(f"{options.out}: {len(read)} records")


def page(read: list[Result], draw: Callable[[str, Rows], dict[str, str]] = lambda *_: {}) -> str:
    """The whole page. read: records of runs, with ``arm``, and of annotations. draw: plots, name -> caption."""
    runs = [record for record in read if "arm" in record]
    groups: dict[tuple[str, int, int], list[Result]] = defaultdict(list)
    for run in runs:
        groups[run["proof"], run["config"]["num_images"], run["samples"]].append(run)
    parts = ["# Results", _INTRODUCTION.format(rule=RULE)]
    for (proof, images, samples), found in sorted(groups.items()):
        parts.append(f"## {proof}, {images:,} training pictures, {samples:,} samples")
        rows = by_row(found)
        parts += [_conditions(found), _main_table(rows), _verdicts(rows)]
        parts += [f"{caption}:\n\n![{caption}](results/{name})" for name, caption in draw(proof, rows).items()]
        parts += [_ablation_table(rows), _known_table(rows), _denoising_table(rows), _runs(found)]
    if annotations := [record for record in read if "arm" not in record]:
        parts += ["## Annotation", _annotations(annotations)]
    return "\n\n".join(part for part in parts if part) + "\n"


_INTRODUCTION = """Made by `python benchmarks/proof/docs_results.py` from the files in
[benchmarks/proof/results](../benchmarks/proof/results), one of each run, which hold its configuration. Values are means
over seeds, +- half of a 90 % interval: Student's over seeds, of one seed that of its samples alone. {rule} Where a row
has one seed and another has several, the spread of the difference between those seeds stands for its own."""


def by_row(runs: Iterable[Result]) -> Rows:
    """What was run, where what is shared by all rows is in each."""
    rows: Rows = defaultdict(lambda: defaultdict(dict))
    shared = [run for run in runs if run["row"] == SHARED]
    for run in runs:
        if run["row"] != SHARED:
            rows[run["row"]][run["label"]][run["seed"]] = run
    for labels in rows.values():
        for run in shared:
            labels[run["label"]][run["seed"]] = run
    if not rows and shared:
        for run in shared:
            rows[SHARED][run["label"]][run["seed"]] = run
    return {name: rows[name] for name in sorted(rows)}


def _main_table(found: Rows) -> str:
    rows = []
    for name, labels in found.items():
        cells = [_value(labels.get(label, {}), "frechet") for label in ARMS]
        copies = [_value(labels.get(label, {}), "memorised") for label in ("clean", "ambient")]
        rows.append([name, *cells, *copies])
    heads = ["damage", *ARMS.values(), "copies, clean only", "copies, ambient"]
    return "Frechet distance (lower is better):\n\n" + _table(heads, rows)


def _verdicts(found: Rows) -> str:
    """Ambient against each other arm: the difference, in percent, in standard errors, and what it is called."""
    rows = []
    for other in (label for label in ARMS if label != "ambient"):
        spread = spread_of_seeds(found, other)
        for name, labels in found.items():
            ours, theirs = labels.get("ambient", {}), labels.get(other, {})
            verdict = compare_arms(ours, theirs, ("ambient", ARMS[other]), spread=spread)
            if verdict is not None:
                seeds = sorted(ours.keys() & theirs.keys())
                before = sum(theirs[seed]["measures"]["frechet"]["value"] for seed in seeds) / len(seeds)
                percent = f"{-100 * verdict.difference / before:+.1f} %"
                errors = f"{abs(verdict.difference) / verdict.error:.1f}"
                rows.append(
                    [name, ARMS[other], f"{-verdict.difference:+.3g}", percent, errors, str(len(seeds)), verdict.said]
                )
    heads = ["damage", "ambient against", "difference", "in percent", "in standard errors", "seeds", "it is"]
    return _table(heads, rows) if rows else ""


def spread_of_seeds(found: Rows, other: str) -> tuple[float, int] | None:
    """Standard deviation over seeds of ambient less another arm, pooled over rows, and its degrees of freedom."""
    squares, freedom = 0.0, 0
    for labels in found.values():
        ours, theirs = labels.get("ambient", {}), labels.get(other, {})
        both = [_frechet(theirs[seed]) - _frechet(ours[seed]) for seed in ours.keys() & theirs.keys()]
        squares += sum((value - sum(both) / len(both)) ** 2 for value in both)
        freedom += max(len(both) - 1, 0)
    return ((squares / freedom) ** 0.5, freedom) if freedom else None


def _ablation_table(found: Rows) -> str:
    rows = []
    formulas = {**{label: change.formula for label, change in ABLATIONS.items()}, "fixed": _FIXED}
    for name, labels in found.items():
        if not set(labels) & (set(ABLATIONS) - {"ambient"}):
            continue
        for label, formula in formulas.items():
            if labels.get(label):
                escaped = formula.replace("|", "\\|")  # else it would part cells
                values = [_value(labels[label], measure) for measure in ("frechet", "memorised")]
                rows.append([name, label, f"`{escaped}`", *values])
    if not rows:
        return ""
    about = " ".join(line.strip() for line in (ablations.__doc__ or "").splitlines() if line.strip())
    return f"{about}\n\n" + _table(["damage", "change", "what is trained", "Frechet distance", "copies"], rows)


_FIXED = "as ambient, one sigma_min for all pictures of a source: where the mean of their curves crosses"


def _known_table(found: Rows) -> str:
    """Denoising error on training pictures as a share of that on others alike, mean over seeds."""
    rows, levels = [], []
    for name, labels in found.items():
        if not set(labels) & (set(ABLATIONS) - {"ambient"}):
            continue
        for label, seeds in labels.items():
            runs = [run for run in seeds.values() if "known" in run]
            pairs = {
                "undamaged": [(run["known"]["clean"], run["validation"]) for run in runs],
                "damaged": [
                    (run["known"]["damaged"], run["known"]["damaged_unknown"])
                    for run in runs
                    if "damaged" in run["known"]
                ],
            }
            for which, both in pairs.items():
                if both:
                    levels = both[0][0]["sigma"]
                    shares = [[a / b for a, b in zip(x["mean"], y["mean"], strict=True)] for x, y in both]
                    means = [sum(column) / len(column) for column in zip(*shares, strict=True)]
                    rows.append([name, label, which, *(f"{mean:.3f}" for mean in means)])
    heads = ["damage", "arm", "pictures", *(f"{level:.2g}" for level in levels)]
    what = "What is known by heart: denoising error on training pictures over that on others alike, by noise level"
    return f"{what}:\n\n{_table(heads, rows)}" if rows else ""


def _denoising_table(found: Rows) -> str:
    """Denoising error on pictures that nobody trained on, as a share of that of the clean arm, first seed of each."""
    rows, levels = [], []
    for name, labels in found.items():
        clean = labels.get("clean")
        for label in [*ARMS, *(label for label in labels if label not in ARMS)]:
            both = sorted((clean or {}).keys() & labels.get(label, {}).keys())
            if label == "clean" or clean is None or not both:
                continue
            ours, theirs = labels[label][both[0]]["validation"], clean[both[0]]["validation"]
            levels = ours["sigma"]
            shares = [a / b for a, b in zip(ours["mean"], theirs["mean"], strict=True)]
            rows.append([name, label, *(f"{share:.3f}" for share in shares)])
    heads = ["damage", "arm", *(f"{level:.2g}" for level in levels)]
    return (
        "Denoising error on held-out pictures over that of clean only, by noise level:\n\n" + _table(heads, rows)
        if rows
        else ""
    )


def _runs(runs: list[Result]) -> str:
    rows = []
    for run in sorted(runs, key=lambda run: (run["row"], run["label"], run["seed"])):
        stem = f"{run['proof']}-{run['row']}-{run['label']}-{run['seed']}"
        names = ("frechet", "kernel", "precision", "recall", "density", "coverage")
        values = [f"{run['measures'][name]['value']:.4g}" for name in names]
        link = f"[{stem}](../benchmarks/proof/results/{stem}.json)"
        rows.append([link, run["date"], *values, f"{run['images_per_s']:,.0f}", f"{run['judged_s']:.0f}"])
    heads = [
        "run",
        "date",
        "Frechet",
        "kernel",
        "precision",
        "recall",
        "density",
        "coverage",
        "pictures/s",
        "measured in s",
    ]
    return "Every run:\n\n" + _table(heads, rows)


def _annotations(records: list[Result]) -> str:
    keys = ("proof", "row", "pictures", "mean", "p10", "median", "p90", "fixed", "never", "seconds", "date", "hardware")
    rows = [[_shown(record[key]) for key in keys] for record in records]
    return _table(list(keys), rows)


def _conditions(runs: list[Result]) -> str:
    hardware = sorted({f"{run['hardware']}, PyTorch {run['torch']}" for run in runs})
    commands = sorted({f"    {run['command']}" for run in runs})
    return f"On {'; '.join(hardware)}. Commands:\n\n" + "\n".join(commands)


def _value(seeds: dict[int, Result], measure: str) -> str:
    if not seeds:
        return ""
    mean = mean_of(list(seeds.values()), measure)
    return f"{mean.value:.4g} +- {mean.half:.2g} ({mean.seeds})"


def _frechet(run: Result) -> float:
    value: float = run["measures"]["frechet"]["value"]
    return value


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
