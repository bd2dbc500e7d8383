"""What a manifest says of its sources, and of one picture, with its curve drawn in characters (``ambient show``)."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from ..schemas.errors import UserError
from ..schemas.manifest import Metadata, read_metadata
from ..schemas.usable import BETA
from .query import query, rows_of
from .tables import print_table, shown, to_json_lines
from .threshold import fit_of

_HEIGHT = 11  # lines of a curve, from p_clean 0 to 1
_FANCY = {"fit": "━", "point": "·", "tau": "┄", "axis": "│", "corner": "└", "base": "─", "cross": "▲", "span": "━"}
_PLAIN = {"fit": "#", "point": ".", "tau": "-", "axis": "|", "corner": "+", "base": "-", "cross": "^", "span": "="}


def print_sources(manifest: Path) -> None:
    """Print what a manifest says of each source; of several processes, started by torchrun, one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print_table(query(manifest, "FROM by_source"))


def print_pictures(manifest: Path, uris: list[str], *, as_json: bool = False) -> None:
    """Print the rows with these uris on stdout: for people, or one JSON object a line. Raises as ``pictures``."""
    metadata, table = pictures(manifest, uris)
    if as_json:
        sys.stdout.write(to_json_lines(table))
        return
    for row in table.to_pylist():
        print_picture(row, metadata)


def pictures(manifest: Path, uris: list[str]) -> tuple[Metadata, pa.Table]:
    """The manifest's metadata, and its rows with these uris, in the order asked for.

    Raises UserError for a uri that it does not have, with those that look like it.
    """
    metadata = read_metadata(manifest)
    table = rows_of(manifest, pa.array(uris))
    at = {uri: i for i, uri in enumerate(table["uri"].to_pylist())}
    for uri in uris:
        if uri not in at:
            raise UserError(f"{manifest} has no picture {uri!r}{_like(manifest, uri)}")
    return metadata, table.take([at[uri] for uri in uris])


def print_picture(row: dict[str, Any], metadata: Metadata) -> None:
    """Print a row of the manifest, for people, on stdout."""
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    console.print(shown(row["uri"]), style="bold", markup=False)
    console.print(f"  {use_of(row)}\n", markup=False)
    facts = {
        name: value for name, value in row.items() if value is not None and name not in ("uri", "p_clean", "draws")
    }
    width = max(len(shown(name)) for name in facts) + 2
    for name, value in facts.items():
        console.print(f"  {shown(name):<{width}}{shown(value)}", markup=False)
    if row["p_clean"] is not None and len(row["p_clean"]) == len(metadata.sigma_grid):
        console.print("\n" + "\n".join(draw(row, metadata)), markup=False)
    console.print()


def use_of(row: dict[str, Any]) -> str:
    """One sentence: at which noise levels the picture is used (schemas/usable.py)."""
    if row["status"] != "ok":
        return f"not used: {shown(row['status'])}" + (f", {shown(row['reason'])}" if row["reason"] else "")
    above, below = BETA * row["sigma_min"], row["sigma_max"]
    low_noise = f"below {below:.3g}" if below > 0 else ""
    if above == 0 or below > above:
        return "used at every noise level"
    if math.isinf(above):
        return f"used at noise levels {low_noise} only" if low_noise else "not used at any noise level"
    return f"used at noise levels above {above:.3g}" + (f" and {low_noise}" if low_noise else "")


def draw(row: dict[str, Any], metadata: Metadata) -> list[str]:
    """Lines of a plot of p_clean (points), the fit that decides (line) and the threshold against the noise level.

    row: with p_clean, draws (or None) and sigma_min, sigma_min_lo, sigma_min_hi. One column per level.
    """
    marks = _FANCY if _can_print("".join(_FANCY.values())) else _PLAIN
    curve = np.array([row["p_clean"]], dtype=np.float64)
    tau, grid = 0.5 - metadata.epsilon, np.array(metadata.sigma_grid)
    fit = fit_of(row["p_clean"], row["draws"], metadata)
    canvas = np.full((_HEIGHT, len(grid)), " ")
    canvas[_line(tau)] = marks["tau"]
    for values, mark in ((curve[0], marks["point"]), (fit, marks["fit"])):
        for column, value in enumerate(values):
            canvas[_line(value), column] = mark
    labels = {_line(1.0): "1.0", _line(tau): f"{tau:.2f}", _line(0.0): "0.0"}
    lines = [f"  {labels.get(i, ''):>4} {marks['axis']}{''.join(canvas[i])}" for i in range(_HEIGHT)]
    lines.append(f"       {marks['corner']}{marks['base'] * len(grid)}")
    return [*lines, *(f"        {line}".rstrip() for line in (_crossing(row, grid, marks), *_ticks(grid)) if line)]


def _line(value: float) -> int:
    return round((1 - min(max(value, 0.0), 1.0)) * (_HEIGHT - 1))


def _crossing(row: dict[str, Any], grid: np.ndarray[Any, Any], marks: dict[str, str]) -> str:
    """sigma_min and its 90 % interval below the axis, or nothing where it is 0 or inf."""
    low, sigma, high = (row[name] for name in ("sigma_min_lo", "sigma_min", "sigma_min_hi"))
    if not sigma or math.isinf(sigma):
        return ""
    start, at, end = (_column(s, grid) for s in (low, sigma, high))
    line = " " * start + marks["span"] * (end - start + 1)
    return f"{line[:at]}{marks['cross']}{line[at + 1 :]} sigma_min {sigma:.3g}, 90 % in {low:.3g} ... {high:.3g}"


def _column(sigma: float, grid: np.ndarray[Any, Any]) -> int:
    """The nearest level."""
    return int(np.abs(np.log(grid) - math.log(min(max(sigma, grid[0]), grid[-1]))).argmin())


def _ticks(grid: np.ndarray[Any, Any]) -> list[str]:
    """The powers of ten, and what they are."""
    line = ""
    for power in range(math.ceil(math.log10(grid[0]) - 1e-9), math.floor(math.log10(grid[-1]) + 1e-9) + 1):
        line = line.ljust(_column(10.0**power, grid)) + f"{10.0**power:g} "
    return [f"{line.ljust(len(grid))} noise level"]


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _like(manifest: Path, uri: str) -> str:
    part = uri.rpartition("/")[2] or uri
    found = query(
        manifest,
        "SELECT uri FROM manifest WHERE contains(lower(uri), lower($part)) ORDER BY len(uri), uri LIMIT 3",
        {"part": part},
    )["uri"].to_pylist()
    return f": did you mean {' or '.join(map(repr, found))}?" if found else ": `ambient sql` finds the names"
