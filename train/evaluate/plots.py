"""Plots of a comparison, drawn from its recorded results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...curate.whole import writing
from .verdict import Result, by_arm

_SIZE = (6.4, 4.0)  # inches
_FAR_APART = 4.0  # distances whose ratio exceeds this are drawn on a logarithmic axis


def draw_plots(results: Sequence[Result], folder: Path) -> list[Path]:
    """``curve.png``, ``validation.png`` and ``usable.png``: paths of what was drawn.

    Distance against training pictures seen; denoising error at each noise level, as a share of the first arm's; how
    many pictures each arm can use at each level. Lines are means over seeds; bands reach over all seeds, and over the
    90 % interval of each distance.
    """
    plots = {
        "curve": (_curve, "training pictures seen", "Frechet distance"),
        "validation": (_validation, "noise level", f"denoising error / that of {results[0]['arm']}"),
        "usable": (_usable, "noise level", "usable pictures"),
    }
    paths = []
    for name, (draw, x_label, y_label) in plots.items():
        figure, axes = _figure()
        draw(by_arm(results), axes)
        axes.set(xlabel=x_label, ylabel=y_label)
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
        curves = [{point["images"]: point["frechet"] for point in result["curve"]} for result in seeds.values()]
        images = sorted(set.intersection(*map(set, curves)))  # a mean is over all seeds, of one moment
        value, low, high = (
            np.array([[curve[moment][end] for moment in images] for curve in curves])
            for end in ("value", "low", "high")
        )
        _band(axes, np.array(images), value, arm, low=low, high=high)
    scale_distances(axes)


def scale_distances(axes: Any) -> None:
    """A logarithmic axis of distances where they lie far apart."""
    from matplotlib.ticker import LogLocator

    lowest, highest = axes.dataLim.intervaly
    if lowest > 0 and highest > _FAR_APART * lowest:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)


def _validation(arms: dict[str, dict[int, Result]], axes: Any) -> None:
    first = next(iter(arms.values()))
    for arm, seeds in arms.items():
        both = [seed for seed in seeds if seed in first]
        levels = np.array(next(iter(seeds.values()))["validation"]["sigma"])
        shares = [_means(seeds[seed]) / _means(first[seed]) for seed in both]
        if shares:
            _band(axes, levels, np.array(shares), arm)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xscale("log")


def _usable(arms: dict[str, dict[int, Result]], axes: Any) -> None:
    for arm, seeds in arms.items():
        usable = next(iter(seeds.values()))["usable"]
        axes.plot(usable["sigma"], usable["pictures"], label=arm, drawstyle="steps-mid")
    axes.set_xscale("log")


def _means(result: Result) -> Any:
    return np.array(result["validation"]["mean"])


def _band(axes: Any, x: Any, values: Any, label: str, *, low: Any = None, high: Any = None) -> None:
    """values: (seeds, points); low, high: of their intervals, None where they have none."""
    bottom, top = (values if low is None else low).min(axis=0), (values if high is None else high).max(axis=0)
    (line,) = axes.plot(x, values.mean(axis=0), label=label, marker=".")
    axes.fill_between(x, bottom, top, color=line.get_color(), alpha=0.2, linewidth=0)
