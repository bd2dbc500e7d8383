"""The report as one file: a template, its style and its scripts, the numbers as JSON, pictures as data URIs."""

import re
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...schemas.errors import UserError
from ...schemas.manifest import Metadata, read_metadata
from ...schemas.usable import BETA
from ..query import connect, spare_manifests
from ..remote import is_remote
from ..reporter import Reporter
from ..tables import json_text
from ..threshold import sigma_grid
from ..uris import Roots, relocated
from ..whole import replacing
from .aggregates import curves, groups, number_groups, statuses, totals
from .gallery import choose, clean_references, score_columns
from .views import MAX_SIDE, pictures

PARTS = {"style": "page.css", "charts": "charts.js", "gallery": "gallery.js", "script": "page.js"}
_DIGITS = 5  # significant, of the numbers on the page


def report(manifest: Path, out: Path, *, roots: Roots | None = None, reporter: Reporter | None = None) -> Path:
    """Write the report of a manifest, and say so. The same manifest and pictures give the same bytes.

    roots: where roots of the manifest lie now. Pictures that cannot be read are named on the page and in a warning.
    Raises UserError when there is no valid manifest at the path, or `out` cannot be written or is no name of a page.
    """
    reporter = reporter or Reporter()
    spare_manifests(out, manifest)
    if out.suffix.lower() not in (".html", ".htm"):  # an earlier report is replaced, and nothing else
        raise UserError(f"{out} must end in .html: the report is one page")
    data = contents(manifest, roots or {})
    with replacing(out) as partial:
        partial.write_text(render(data), encoding="utf-8")
    if missing := [picture for picture in data["pictures"] if picture["problem"]]:
        first = missing[0]
        reporter.warn(
            f"{len(missing)} of {len(data['pictures'])} sampled pictures could not be read, such as "
            f"{first['row']['uri']!r}: {first['problem']}; say where the pool is now with `--root pool=/new/place`"
        )
    size = out.stat().st_size / 1e6
    reporter.say(f"{out}: {data['totals']['pictures']:,} pictures, {size:.1f} MB; open it in a browser")
    return out


def contents(manifest: Path, moved: Roots) -> dict[str, Any]:
    """All that the page knows, as JSON values; the scripts read it."""
    metadata = read_metadata(manifest)
    roots = relocated(metadata.roots, moved, str(manifest))
    measured = len(metadata.sigma_grid) > 1
    grid = metadata.sigma_grid if measured else sigma_grid().tolist()
    tau = 0.5 - metadata.epsilon
    with connect(manifest) as connection:
        number_groups(connection)
        counts = totals(connection)
        galleries, references = choose(connection), clean_references(connection)
        data = {
            **_about(manifest, metadata, roots),
            "grid": grid,
            "pool_share": metadata.pool_share if measured else [],
            "tau": tau,
            "beta": BETA,
            "totals": counts,
            "statuses": statuses(connection),
            "sources": groups(connection, "source", grid),
            "labels": groups(connection, "label", grid) if counts["labels"] else [],
            "curves": curves(connection, manifest, grid, tau, noise=metadata.draw_noise, how=metadata.crossing)
            if measured
            else None,
            "scores": score_columns(connection),
        }
    uris = list(dict.fromkeys(uri for gallery in galleries for uri in gallery.uris))
    trusted = {uri for gallery in galleries if gallery.key == "trust" for uri in gallery.uris}
    number = {uri: i for i, uri in enumerate(uris)}
    data["galleries"] = [
        {"key": g.key, "title": g.title, "note": g.note, "score": g.score, "pictures": [number[uri] for uri in g.uris]}
        for g in galleries
    ]
    data["pictures"] = pictures(uris, trusted, references, manifest, metadata, roots)
    return data


def render(data: dict[str, Any]) -> str:
    """The page. Nothing in the data can end its script element, or begin another."""
    folder = files(__package__)
    texts = {name: folder.joinpath(file).read_text(encoding="utf-8") for name, file in PARTS.items()}
    texts["data"] = re.sub("[<>&\u2028\u2029]", lambda c: f"\\u{ord(c[0]):04x}", json_text(_plain(data)))
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda hole: texts[hole[1]], template)


def _about(manifest: Path, metadata: Metadata, roots: Roots) -> dict[str, Any]:
    written = datetime.fromtimestamp(manifest.stat().st_mtime, UTC)
    return {
        "name": manifest.name,
        "written": written.strftime("%Y-%m-%d"),
        "version": __version__,
        "metadata": asdict(metadata),
        "space": str(metadata.space),
        "roots": [{"name": n, "path": p, "there": is_remote(p) or Path(p).exists()} for n, p in sorted(roots.items())],
        "crop": MAX_SIDE if metadata.space.resolution > MAX_SIDE else None,
    }


def _plain(value: Any) -> Any:
    """Arrays as lists, floats with the digits that a page needs."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and np.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return value
