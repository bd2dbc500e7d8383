"""docs/results.md from the recorded JSON alone: what has no file has no number.

python benchmarks/proof/docs_results.py
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from ambient.train.evaluate.verdict import RULE
from recorded import annotated, changed, command_of, runnable
from results_plots import draw_all
from results_tables import (
    ARMS,
    Result,
    Rows,
    ablation_table,
    annotation_table,
    curve_table,
    denoising_table,
    formulas,
    known_table,
    main_table,
    runs_table,
)
from results_verdicts import claim_table, verdict_table
from tasks import DRAWS, PROOFS, SHARED, STEPS

RESULTS = Path(__file__).parent / "results"
OUT = Path(__file__).parents[2] / "docs" / "results.md"

Draw = Callable[[str, Rows], dict[str, str]]
"""(what files are named, rows) -> name of each plot's file -> caption."""
Setting = tuple[str, ...]
"""Pool, length, samples, network, what is drawn and what keeps it from learning by heart: runs of one compare."""

_SAID = re.compile(r"(network\.(kind|channels|multipliers|dropout|augment_dim)|augment|batch_size|P_mean)=")
"""Begins what a setting tells in words."""

_INTRODUCTION = """Made by `python benchmarks/proof/docs_results.py` from the files in
[benchmarks/proof/results](../benchmarks/proof/results), one of each run, which hold its configuration. Values are means
over seeds, +- half of a 90 % interval: Student's over seeds, but no narrower than by chance in the samples, which is
all that is known of one seed; in brackets the number of seeds. {rule} Here the spread of what has one seed is taken,
as a share of its value, from all that was trained with several. Of the noise levels in tables every second is shown.
Commands are as the code of today takes them, made of what the records hold; they do again what has no record yet."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    write(options.results, options.out)


def write(results: Path, out: Path) -> None:
    """The page of all records in a folder, its plots in a folder beside it."""
    read, plots = read_records(results), out.parent / out.stem
    if not read:
        sys.exit(f"nothing is recorded in {results}")

    def draw(name: str, rows: Rows) -> dict[str, str]:
        captions = draw_all(name, rows, ARMS, results, plots)
        return {f"{plots.name}/{plot}": caption for plot, caption in captions.items()}

    out.write_text(page(read, draw))
    print(f"{out}: {len(read)} records")


def read_records(folder: Path) -> list[Result]:
    """Of runs, which have an ``arm``, and of annotations; ``file`` is where each was read."""
    return [{**json.loads(path.read_text()), "file": path.name} for path in sorted(folder.glob("*.json"))]


def page(read: list[Result], draw: Draw = lambda *_: {}) -> str:
    """The whole page of what ``read_records`` returned. draw: plots, name -> caption."""
    runs, annotations = ([record for record in read if ("arm" in record) == run] for run in (True, False))
    parts = ["# Results", _INTRODUCTION.format(rule=RULE)]
    if runs:
        parts += ["## What is trained", formulas(run["label"] for run in runs)]
    for proof in PROOFS:
        if found := [run for run in runs if run["proof"] == proof]:
            parts += [f"## {proof}", introduction(proof), *_settings(proof, found, draw)]
    if annotations:
        ordered = sorted(annotations, key=lambda record: (PROOFS.index(record["proof"]), record["file"]))
        parts += ["## Annotation", annotation_table(ordered)]
    return "\n\n".join(part for part in parts if part) + "\n"


def introduction(proof: str) -> str:
    """The first paragraph of the proof's module."""
    return " ".join((import_module(proof).__doc__ or "").partition("\n\n")[0].split())


def _settings(proof: str, runs: list[Result], draw: Draw) -> list[str]:
    """A part for each setting, the latest first; of one day, that with the most runs."""
    groups: dict[Setting, list[Result]] = defaultdict(list)
    for run in runs:
        groups[setting_of(run)].append(run)
    order = sorted(groups, key=lambda s: (max(run["date"] for run in groups[s]), len(groups[s]), s), reverse=True)
    return [part for setting in order for part in _setting(proof, setting, groups[setting], draw)]


def _setting(proof: str, setting: Setting, runs: list[Result], draw: Draw) -> list[str]:
    rows, title = by_row(runs), ", ".join(part for part in setting if part)
    check_comparable(runs)
    name = re.sub(r"[^\w.]+", "-", f"{proof}-{title.replace(',', '')}")
    plots = [f"{caption}:\n\n![{caption}]({path})" for path, caption in draw(name, rows).items()]
    tables = [ablation_table(rows), known_table(rows), denoising_table(rows), runs_table(runs)]
    return [
        f"### {title}",
        claim_table(rows),
        _conditions(runs),
        main_table(rows),
        verdict_table(rows),
        curve_table(rows),
        *plots,
        *tables,
    ]


def setting_of(run: Result) -> Setting:
    """What must be the same in runs that are compared, and what is not as usual."""
    config, network = run["config"], run["config"]["network"]
    widths = " ".join(str(m) for m in network["multipliers"])
    usual, asked = {"draws": DRAWS, "steps": STEPS}, annotated(run)
    others = [setting for setting in changed(run) if not _SAID.match(setting)]
    return (
        f"{run['reference']['pictures']:,} pictures",
        f"{config['num_images']:,} to train on by {config['batch_size']}",
        f"{run['samples']:,} samples",
        f"{network['kind']} of {network['channels']} channels x {widths}",
        f"P_mean {config['P_mean']:g}",
        f"dropout {network['dropout']:g}",
        f"augmentation {config['augment']:g}" if config["augment"] else "",
        *(f"annotation's {what} {number}" for what, number in asked.items() if number != usual[what]),
        *others,
    )


def check_comparable(runs: Iterable[Result]) -> None:
    """Raises ValueError where runs of one setting were measured against other pictures or in other features."""
    for part, key in (("reference", "fingerprint"), ("features", "digest")):
        files = {run[part][key]: run["file"] for run in runs if key in run.get(part, {})}
        if len(files) > 1:
            raise ValueError(f"not to be compared, as the {key} of the {part} is another: {', '.join(files.values())}")


def by_row(runs: Iterable[Result]) -> Rows:
    """What was run, where what is shared by all rows is in each."""
    rows: Rows = defaultdict(lambda: defaultdict(dict))
    shared = [run for run in runs if run["row"] == SHARED]
    for run in runs:
        if run["row"] != SHARED:
            rows[run["row"]][run["label"]][run["seed"]] = run
    for labels in list(rows.values()) or [rows[SHARED]]:
        for run in shared:
            labels[run["label"]][run["seed"]] = run
    return {name: rows[name] for name in sorted(rows)}


def _conditions(runs: list[Result]) -> str:
    hardware = sorted({f"{run['hardware']}, PyTorch {run['torch']}" for run in runs})
    commands = sorted({f"    {command_of(run)}" for run in runs})
    gone = sorted({f"`{run['label']}`" for run in runs if not runnable(run["label"])})
    lost = f"\n\nNo command makes {' and '.join(gone)} again, whose code is gone." if gone else ""
    return f"On {'; '.join(hardware)}. Command{'s' * (len(commands) > 1)}:\n\n" + "\n".join(commands) + lost


if __name__ == "__main__":
    main()
