"""The tables and plots of docs/fields.md, made from the runs of fields_training.py (docs/fields/NAME.jsonl)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ambient.schemas.usable import BETA
from fields_ideal import ARMS
from marks import between
from numpy.typing import NDArray

Run = dict[str, Any]
STYLES = dict(zip(ARMS, ("C0o", "C3s", "C2D", "C1^"), strict=True))
OURS = [name for name, arm in ARMS.items() if arm.obeys]
OTHERS = [name for name in ARMS if name not in OURS]


def write_page(docs: Path) -> None:
    """Write docs/fields.md's tables and every plot anew."""
    page, found = docs / "fields.md", records(docs / "fields")
    page.write_text(with_tables(page.read_text(), found))
    for name, runs in found.items():
        plot(runs, docs / "fields" / f"{name}.png")


def records(folder: Path) -> dict[str, list[Run]]:
    """name -> the runs of every NAME.jsonl of which some seed has all arms."""
    found = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("*.jsonl")}
    return {name: runs for name, runs in sorted(found.items()) if complete(runs)}


def with_tables(text: str, found: dict[str, list[Run]]) -> str:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end -->``."""
    for name, runs in found.items():
        text = between(text, name, table(runs))
    return text


def complete(runs: list[Run]) -> set[int]:
    """The seeds with which every arm has been trained."""
    return set.intersection(*({run["seed"] for run in runs if run["arm"] == arm} for arm in ARMS))


def values(runs: list[Run], arm: str, level: str) -> NDArray[np.float64]:
    """Excess errors of an arm at a level, one per complete seed."""
    seeds = complete(runs)
    chosen = sorted((run for run in runs if run["arm"] == arm and run["seed"] in seeds), key=lambda run: run["seed"])
    return np.array([run["excess"][level] for run in chosen])


def table(runs: list[Run]) -> str:
    """Per noise level: each arm's excess error and whether an arm with thresholds is worse than one without."""
    names = [f"{arm}{'' if arm == OTHERS[0] else ', ideal'}" for arm in ARMS]
    lines = [f"| sigma | {' | '.join(names)} | worse than the best other |", "|---" * (len(ARMS) + 2) + "|"]
    for level in runs[0]["excess"]:
        cells = []
        for arm in ARMS:
            found = values(runs, arm, level)
            ideal = next(run["ideal"][level] for run in runs if run["arm"] == arm)
            cells.append(f"{mean_and_error(found)}{'' if arm == OTHERS[0] else f', {100 * ideal:.2f}'}")
        lines.append(f"| {level} | {' | '.join(cells)} | {verdict(runs, level)} |")
    return "\n".join([*lines, "", about(runs)])


def mean_and_error(found: NDArray[np.float64]) -> str:
    """In percent, with the standard error of the mean."""
    error = f" ± {100 * standard_error(found):.2f}" if len(found) > 1 else ""
    return f"{100 * found.mean():.2f}{error}"


def standard_error(found: NDArray[np.float64]) -> float:
    return float(found.std(ddof=1) / np.sqrt(len(found)))


def verdict(runs: list[Run], level: str) -> str:
    """``no``, or by how much: beyond two standard errors of the difference, seed by seed; ``?`` with one seed."""
    if len(complete(runs)) < 2:
        return "?"
    best = min((values(runs, arm, level) for arm in OTHERS), key=lambda found: float(found.mean()))
    worse = []
    for arm in OURS:
        difference = values(runs, arm, level) - best
        if difference.mean() > 2 * standard_error(difference):
            worse.append(f"{ARMS[arm].target}: by {mean_and_error(difference)}")
    return ", ".join(worse) or "no"


def about(runs: list[Run]) -> str:
    first, last = runs[0], runs[-1]
    floors = ", ".join(f"{float(s):.2f} for blur {blur}" for blur, s in first["sigma_min"].items())
    num = len(complete(runs))
    seconds = np.mean([run["seconds"] for run in runs])
    where = f"{first['hardware']}, PyTorch {first['torch']}, {last['date']}"
    return (
        f"Percent above the Wiener filter's error, mean ± standard error of {num} seeds. sigma_min {floors}. "
        f"{where}, {seconds:.0f} s a run: `{first['command']}`"
    )


def plot(runs: list[Run], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    levels = list(runs[0]["excess"])
    sigma = [float(level) for level in levels]
    figure, axes = plt.subplots(figsize=(7.5, 4.5), constrained_layout=True)
    for arm, style in STYLES.items():
        mean = np.array([100 * values(runs, arm, level).mean() for level in levels])
        axes.plot(sigma, mean, f"{style}-", label=arm, markersize=4)
        if len(values(runs, arm, levels[0])) > 1:
            error = np.array([100 * standard_error(values(runs, arm, level)) for level in levels])
            axes.fill_between(sigma, mean - error, mean + error, color=style[:2], alpha=0.2, linewidth=0)
    for arm in (OTHERS[-1], OURS[0]):
        ideal = next(run["ideal"] for run in runs if run["arm"] == arm)
        shown = [100 * ideal[level] if ideal[level] > 1e-5 else np.nan for level in levels]  # a gap where it is nothing
        axes.plot(sigma, shown, f"{STYLES[arm][:2]}:", label=f"{arm}: ideal", linewidth=1)
    for blur, floor in runs[0]["sigma_min"].items():
        axes.axvline(BETA * floor, color="0.6", linewidth=0.8, linestyle="--")
        where = {"xy": (BETA * floor, 0.02), "xycoords": ("data", "axes fraction"), "ha": "right", "rotation": 90}
        axes.annotate(f"blur {blur} used", **where, fontsize=7, color="0.4")
    axes.set(xscale="log", yscale="log", xlabel="noise level sigma", ylabel="error above the optimum, %")
    axes.set_ylim(bottom=0.05)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
