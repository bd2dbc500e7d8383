"""docs/results.md from the recorded JSON alone: what has no file has no number.

python benchmarks/proof/docs_results.py
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ambient.train.evaluate.verdict import RULE, compare_arms, mean_of

sys.path.insert(0, str(Path(__file__).parent))
from ablations import ABLATIONS

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    read = [json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]
    if not read:
        sys.exit(f"nothing is recorded in {options.results}")
    options.out.write_text(page(read))
    print(f"{options.out}: {len(read)} records")


def page(read: list[Result]) -> str:
    """The whole page. read: records of runs (with ``arm``) and of annotations (without)."""
    runs = [record for record in read if "arm" in record]
    groups: dict[tuple[str, int, int], list[Result]] = defaultdict(list)
    for run in runs:
        groups[run["proof"], run["config"]["num_images"], run["samples"]].append(run)
    parts = ["# Results", _INTRODUCTION.format(rule=RULE)]
    for (proof, images, samples), found in sorted(groups.items()):
        parts.append(f"## {proof}, {images:,} training pictures, {samples:,} samples")
        parts.append(_conditions(found))
        parts += [_main_table(found), *_verdicts(found), _ablation_table(found), _denoising_table(found)]
        parts.append(_runs(found))
    if annotations := [record for record in read if "arm" not in record]:
        parts += ["## Annotation", _annotations(annotations)]
    return "\n\n".join(part for part in parts if part) + "\n"


_INTRODUCTION = """Made by `python benchmarks/proof/docs_results.py` from the files in
[benchmarks/proof/results](../benchmarks/proof/results), one of each run, which hold its configuration. Values are means
over seeds, +- half of a 90 % interval: Student's over seeds, of one seed that of its samples alone. {rule}"""


def by_row(runs: Iterable[Result]) -> dict[str, dict[str, dict[int, Result]]]:
    """Row -> label -> seed -> run; what is shared by all rows is in each."""
    rows: dict[str, dict[str, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
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


def _main_table(runs: list[Result]) -> str:
    rows = []
    for name, labels in by_row(runs).items():
        cells = [_value(labels.get(label, {}), "frechet") for label in ARMS]
        sigma = labels.get("ambient") or {}
        mean = f"{next(iter(sigma.values()))['sigma_min_mean']:.2f}" if sigma else ""
        rows.append([name, *cells, mean, _value(labels.get("clean", {}), "memorised"), _value(sigma, "memorised")])
    heads = ["damage", *ARMS.values(), "mean sigma_min", "copies, clean only", "copies, ambient"]
    return "Frechet distance (lower is better):\n\n" + _table(heads, rows)


def _verdicts(runs: list[Result]) -> list[str]:
    lines = []
    for name, labels in by_row(runs).items():
        for other in ARMS:
            verdict = compare_arms(labels.get("ambient", {}), labels.get(other, {}), ("ambient", ARMS[other]))
            if other != "ambient" and verdict is not None:
                lines.append(f"- {name}: {verdict.sentence()}")
    return ["\n".join(lines)] if lines else []


def _ablation_table(runs: list[Result]) -> str:
    rows = []
    for name, labels in by_row(runs).items():
        if not set(labels) & (set(ABLATIONS) - {"ambient"}):
            continue
        for label, formula in ABLATIONS.items():
            if labels.get(label):
                escaped = formula.replace("|", "\\|")  # else it would part cells
                values = [_value(labels[label], measure) for measure in ("frechet", "memorised")]
                rows.append([name, label, f"`{escaped}`", *values])
    return _table(["damage", "change", "what is trained", "Frechet distance", "copies"], rows) if rows else ""


def _denoising_table(runs: list[Result]) -> str:
    """Denoising error on pictures that nobody trained on, as a share of that of the clean arm, first seed of each."""
    rows, levels = [], []
    for name, labels in by_row(runs).items():
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
        rows.append([link, run["date"], *values, f"{run['train_s']:.0f}"])
    heads = ["run", "date", "Frechet", "kernel", "precision", "recall", "density", "coverage", "training s"]
    return "Every run:\n\n" + _table(heads, rows)


def _annotations(records: list[Result]) -> str:
    keys = ("proof", "row", "pictures", "mean", "p10", "median", "p90", "never", "seconds", "date", "hardware")
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


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
