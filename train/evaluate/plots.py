"""Plots of a comparison, drawn from its recorded results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...curate.whole import writing
from .verdict import Result, by_arm

_SIZE = (6.4, 4.0)  # inches


def draw_plots(results: Sequence[Result], folder: Path) -> list[Path]:
    """``curve.png``, ``validation.png`` and ``usable.png``: paths of what was drawn.

    Distance against training pictures seen; denoising error at each noise level, as a share of the first arm's; how
    many pictures each arm can use at each level. Lines are means over seeds; bands reach over all seeds.
    """
    plots = {
        "curve": (_curve, "training pictures seen", "Frechet distance", "log"),
        "validation": (_validation, "noise level", f"denoising error / that of {results[0]['arm']}", "linear"),
        "usable": (_usable, "noise level", "usable pictures", "linear"),
    }
    paths = []
    for name, (draw, x_label, y_label, scale) in plots.items():
        figure, axes = _figure()
        draw(by_arm(results), axes)
        axes.set(xlabel=x_label, ylabel=y_label, yscale=scale)
        axes.legend(frameon=False)
        paths.append(folder / f"{name}.png")
        with writing(folder):
            figure.savefig(paths[-1], dpi=120, bbox_inches="tight")
    return paths


def _figure() -> tuple[Any, Any]:
    """Without pyplot, which keeps figures and asks for a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curve(arms: dict[str, dict[int, Result]], axes: Any) -> None:
    for arm, seeds in arms.items():
        images = [point["images"] for point in next(iter(seeds.values()))["curve"]]
        values = [[point["frechet"]["value"] for point in result["curve"]] for result in seeds.values()]
        _band(axes, np.array(images), np.array(values), arm)


def _validation(arms: dict[str, dict[int, Result]], axes: Any) -> None:
    first = next(iter(arms.values()))
    for arm, seeds in arms.items():
        both = [seed for seed in seeds if seed in first]
        levels = np.array(next(iter(seeds.values()))["validation"]["sigma"])
        shares = [_means(seeds[seed]) / _means(first[seed]) for seed in both]
        if shares:
            _band(axes, levels, np.array(shares), arm)
    axes.set_xscale("log")


def _usable(arms: dict[str, dict[int, Result]], axes: Any) -> None:
    for arm, seeds in arms.items():
        usable = next(iter(seeds.values()))["usable"]
        axes.plot(usable["sigma"], usable["pictures"], label=arm, drawstyle="steps-mid")
    axes.set_xscale("log")


def _means(result: Result) -> Any:
    return np.array(result["validation"]["mean"])


def _band(axes: Any, x: Any, values: Any, label: str) -> None:
    """values: (seeds, points)."""
    (line,) = axes.plot(x, values.mean(axis=0), label=label, marker=".")
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)
