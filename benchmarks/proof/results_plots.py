"""Plots of the recorded results, one set for each proof and length."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ambient.train.evaluate.plots import scale_distances
from ambient.train.evaluate.verdict import mean_of
from ambient.train.samples import load_pngs, save_grid

CAPTIONS = {
    "distances": "Frechet distance of each row and arm, with 90 % intervals",
    "curve": "Frechet distance of at most 2,000 samples against training pictures seen, a line for each seed",
    "denoising": "Denoising error on held-out pictures as a share of that of clean only, by noise level",
    "samples": "For each row a line of samples of each arm in the order of the table, all from the same noise",
}

Labels = dict[str, dict[int, dict[str, Any]]]
"""Label -> seed -> what was recorded of the run."""

_SIZE = (7.2, 4.0)  # inches
_BEFORE = "-before"


def draw_all(name: str, rows: dict[str, Labels], arms: dict[str, str], pictures: Path, folder: Path) -> dict[str, str]:
    """Write NAME-distances.png, -curve.png, -denoising.png and -samples.png into folder; returns file -> caption.

    rows: name -> labels. arms: label -> how it is called; those without a run are left out, and those of an earlier
    code (LABEL-before) beside that of today. pictures: folder of the runs' first samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        row: {
            label: runs for label, runs in labels.items() if label.removesuffix(_BEFORE) not in labels.keys() - {label}
        }
        for row, labels in rows.items()
    }
    arms = {label: called for label, called in arms.items() if any(labels.get(label) for labels in rows.values())}
    plots = {"distances": _distances, "curve": _curves, "denoising": _denoising}
    for kind, draw in plots.items():
        figure = draw(rows, arms)
        figure.savefig(folder / f"{name}-{kind}.png", dpi=100, bbox_inches="tight")
    _samples(rows, arms, pictures, folder / f"{name}-samples.png")
    files = {f"{name}-{kind}.png": caption for kind, caption in CAPTIONS.items()}
    return {file: caption for file, caption in files.items() if (folder / file).exists()}


def _distances(rows: dict[str, Labels], arms: dict[str, str]) -> Any:
    """Frechet distance of each row and arm, with 90 % intervals."""
    figure, (axes,) = _figure(1)
    for place, (label, called) in enumerate(arms.items()):
        found = [
            (i, mean_of(list(labels[label].values()), "frechet"))
            for i, labels in enumerate(rows.values())
            if labels.get(label)
        ]
        x = [i + 0.12 * (place - (len(arms) - 1) / 2) for i, _ in found]
        y, half = [mean.value for _, mean in found], [mean.half for _, mean in found]
        axes.errorbar(x, y, half, fmt="o", color=f"C{place}", markersize=4, capsize=2, label=called)
    axes.set_xticks(range(len(rows)), list(rows), rotation=30)
    axes.set(ylabel="Frechet distance")
    scale_distances(axes)
    _legend(figure)
    return figure


def _curves(rows: dict[str, Labels], arms: dict[str, str]) -> Any:
    """Frechet distance against training pictures seen, a panel for each row."""
    figure, panels = _figure(len(rows))
    for axes, (row, labels) in zip(panels, rows.items(), strict=True):
        for label, called in arms.items():
            for number, run in enumerate(labels.get(label, {}).values()):
                x, y = zip(*((point["images"], point["frechet"]["value"]) for point in run["curve"]), strict=True)
                colour = f"C{list(arms).index(label)}"
                axes.plot(x, y, ".-", color=colour, linewidth=1, label=None if number else called)
        axes.set(title=row)
    scale_distances(panels[0])  # which all share
    _legend(figure)
    figure.supxlabel("training pictures seen")
    figure.supylabel("Frechet distance of at most 2,000 samples")
    return figure


def _denoising(rows: dict[str, Labels], arms: dict[str, str]) -> Any:
    """Denoising error on held-out pictures over that of clean only, a panel for each row."""
    figure, panels = _figure(len(rows))
    for axes, (row, labels) in zip(panels, rows.items(), strict=True):
        for label, called in arms.items():
            for number, seed in enumerate(sorted(labels.get("clean", {}).keys() & labels.get(label, {}).keys())):
                ours, theirs = (labels[name][seed]["validation"] for name in (label, "clean"))
                share = np.array(ours["mean"]) / np.array(theirs["mean"])
                colour = f"C{list(arms).index(label)}"
                axes.plot(ours["sigma"], share, ".-", color=colour, linewidth=1, label=None if number else called)
        axes.set(title=row, xscale="log", ylim=(0.5, 1.5))
    _legend(figure)
    figure.supxlabel("noise level")
    figure.supylabel("error / that of clean only")
    return figure


def _samples(rows: dict[str, Labels], arms: dict[str, str], pictures: Path, out: Path) -> None:
    """A line of samples for each row and arm of the first seed, rows below each other, all from the same noise."""
    lines = []
    for labels in rows.values():
        for label in arms:
            if runs := labels.get(label):
                path = pictures / Path(runs[min(runs)]["file"]).with_suffix(".png")
                if path.exists():
                    lines.append(load_pngs([path]))
    if lines:
        save_grid(out, torch.cat(lines), columns=1)


def _legend(figure: Any) -> None:
    """Above the panels, what any of them shows, once."""
    shown = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {called: handle for both in shown for handle, called in zip(*both, strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8)


def _figure(num: int) -> tuple[Any, Any]:
    """A figure of ``num`` panels, and these; without pyplot, which asks for a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(num, 4)
    lines = -(-num // columns)
    figure = Figure(
        figsize=(_SIZE[0] * (1 if num == 1 else 1.4), _SIZE[1] * (1 if num == 1 else 0.7 * lines)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=num > 1, sharey=num > 1).flatten()
    for unused in panels[num:]:
        unused.set_axis_off()
    return figure, panels[:num]
