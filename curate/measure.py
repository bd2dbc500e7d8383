"""The stage that measures p_clean curves, part by part, each picture by the classifier that has not seen it."""

from itertools import islice

import numpy as np
import pyarrow as pa
import torch

from ..schemas.space import Space
from .columns import Rows, is_, lists, spread, words
from .crossfit import CrossFitted
from .curves import Curves, search
from .images import Unusable, load_many, to_unit
from .manifest import write_table
from .noise import names_of
from .reporter import Advance
from .run import Run
from .threshold import sigma_grid

CURVES_PER_PART = 512
# Pictures annotated at a time: fixed, so that a picture's batch never depends on where a run stopped.
_CHUNK = {"cpu": 64, "cuda": CURVES_PER_PART}
_CURVES = ("mean", "variance", "count")


def measure(records: pa.Table, classifier: CrossFitted, space: Space, run: Run) -> None:
    """Write p_clean of every usable row, in parts that are kept."""
    ok = np.flatnonzero(is_(records, "status", "ok"))
    with run.reporter.track("annotating", len(ok)) as advance:
        for number, start in enumerate(range(0, len(ok), CURVES_PER_PART)):
            path, rows = run.work.part("curves", number), ok[start : start + CURVES_PER_PART]
            if path.exists():
                advance(len(rows))
            else:
                write_table(path, _part(records.take(pa.array(rows)), rows, classifier, space, run, advance))


def _part(part: pa.Table, rows: Rows, classifier: CrossFitted, space: Space, run: Run, advance: Advance) -> pa.Table:
    """Columns row, p_clean, draws, variance and problem (of a picture that is gone)."""
    ids, sources, problems, found = part["id"].to_pylist(), words(part, "source"), [], []
    pictures = load_many(part["uri"].to_pylist(), space, run.roots, workers=run.workers)
    while chunk := list(islice(pictures, _CHUNK[run.device.type])):
        problems += [p.reason if isinstance(p, Unusable) else None for _, p in chunk]
        good = [(ids[i], sources[i], p) for i, p in chunk if not isinstance(p, Unusable)]
        if good:
            x = to_unit(torch.from_numpy(np.stack([p for _, _, p in good])).to(run.device))
            names = names_of([content_id for content_id, _, _ in good], run.device)
            told = classifier.told([source for _, source, _ in good], x)
            found.append(cross_search(classifier, x, names, told, run))
        advance(len(chunk))
    usable = np.array([problem is None for problem in problems])
    none = np.zeros((0, len(sigma_grid())))
    mean, variance, count = (np.concatenate([none, *(getattr(c, name) for c in found)]) for name in _CURVES)
    return pa.table(
        {
            "row": pa.array(rows),
            "problem": pa.array(problems, pa.string()),
            "p_clean": spread(lists(mean, pa.float32()), usable),
            "draws": spread(lists(count, pa.int32()), usable),
            "variance": spread(lists(variance, pa.float32()), usable),
        }
    )


def cross_search(classifier: CrossFitted, x: torch.Tensor, names: torch.Tensor, told: torch.Tensor, run: Run) -> Curves:
    """Curves of pictures, each by the member that was trained without it. Arguments as ``search``; told: groups."""
    grid, config = sigma_grid(), run.config
    out = {name: np.zeros((len(x), len(grid))) for name in _CURVES}
    folds = classifier.folds(names)
    for fold, member in enumerate(classifier.members):
        mine = (folds == fold).nonzero()[:, 0]
        if len(mine):
            curves = search(
                member,
                x[mine],
                names[mine],
                grid,
                groups=told[mine],
                draws=config.draws,
                tau=0.5 - config.epsilon,
                seed=config.seed,
            )
            for name, values in out.items():
                values[mine.cpu().numpy()] = getattr(curves, name)
    return Curves(**out)
