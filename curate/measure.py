"""The stage that measures p_clean curves, part by part, each picture by the classifier that has not seen it."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ..schemas.space import Space
from .columns import Rows, is_, lists, matrix, spread, words
from .config import AnnotateConfig
from .crossfit import CrossFitted, load_classifier
from .curves import Curves, search
from .device import missing_to_compile
from .images import Unusable, load_many
from .learn import CLASSIFIER
from .manifest import Work, write_table
from .noise import names_of
from .pool import replaced
from .reporter import Advance, Reporter
from .run import Run
from .team import Team
from .threshold import NUM_LEVELS, pooled_noise, sigma_grid
from .units import to_unit

# Pictures in a part that is kept, and pictures annotated at a time: fixed, so that a picture's batch never depends on
# where a run stopped. A GPU does thousands a second, and needs thousands at a time.
PER_PART = {"cpu": 512, "cuda": 4096}
_CHUNK_VALUES = {"cpu": 64 * 3 * 32**2, "cuda": 1 << 24}
# Network evaluations from which on compiling pays twice: it takes 40 s and halves the time of an evaluation on a CPU.
_WORTH_COMPILING = {"cpu": 1_500_000, "cuda": 40_000_000}
_CURVES = ("mean", "variance", "count")


_ROWS = "rows.parquet"


def measure(records: pa.Table, classifier: CrossFitted, space: Space, run: Run) -> None:
    """Write p_clean of every usable row, in parts that are kept; each process of a team makes some of them."""
    if run.team.size > 1:
        write_table(run.work.folder / _ROWS, records.select(["uri", "id", "source", "status"]))
        run.team.tell({"run": run.work.run, "roots": run.roots})
    _measure(records, classifier, space, run)
    run.team.wait()


def follow(out: Path, config: AnnotateConfig, *, team: Team, device: torch.device, workers: int) -> None:
    """Make parts for the leader of a team until there is nothing left to do."""
    while (job := team.hear()) is not None:
        work, quiet = Work(out, job["run"]), Reporter(quiet=True)
        run = Run(
            config=config, roots=job["roots"], work=work, device=device, workers=workers, reporter=quiet, team=team
        )
        classifier, _ = load_classifier(work.folder / CLASSIFIER)
        records = pq.read_table(work.folder / _ROWS)
        _measure(records, classifier.to(device), classifier.space, run)
        team.wait()


def _measure(records: pa.Table, classifier: CrossFitted, space: Space, run: Run) -> None:
    ok, size = np.flatnonzero(is_(records, "status", "ok")), PER_PART[run.device.type]
    compiled = len(ok) * NUM_LEVELS * run.config.draws >= _WORTH_COMPILING[run.device.type]
    if compiled and (missing := missing_to_compile(run.device)):
        run.reporter.say(f"not compiled, which would be faster: no {missing} was found")
        compiled = False
    find_curves = partial(cross_search, classifier, run=run, compiled=compiled)
    parts = [(number, ok[start : start + size]) for number, start in enumerate(range(0, len(ok), size))]
    mine = parts[run.team.rank :: run.team.size]
    with run.reporter.track("annotating", sum(len(rows) for _, rows in mine)) as advance:
        for number, rows in mine:
            path = run.work.part(f"curves-{size}", number)
            if path.exists():
                advance(len(rows))
            else:
                part = records.take(pa.array(rows))
                write_table(path, _part(part, rows, find_curves, classifier, space, run, advance))


def _part(
    part: pa.Table,
    rows: Rows,
    find_curves: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Curves],
    classifier: CrossFitted,
    space: Space,
    run: Run,
    advance: Advance,
) -> pa.Table:
    """Columns row, p_clean, draws, variance and problem (of a picture that is gone, or not what was read)."""
    ids, sources, problems, found = part["id"].to_pylist(), words(part, "source"), [], []
    pictures = load_many(part["uri"].to_pylist(), space, run.roots, ids=ids, workers=run.share)
    chunk_size = max(1, _CHUNK_VALUES[run.device.type] // math.prod(space.shape))
    while chunk := list(islice(pictures, chunk_size)):
        problems += [p.reason if isinstance(p, Unusable) else None for _, p in chunk]
        good = [(ids[i], sources[i], p) for i, p in chunk if not isinstance(p, Unusable)]
        if good:
            x = to_unit(torch.from_numpy(np.stack([p for _, _, p in good])).to(run.device))
            names = names_of([content_id for content_id, _, _ in good], run.device)
            told = classifier.told([source for _, source, _ in good], x)
            found.append(find_curves(x, names, told))
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


def measured_parts(work: Work) -> Iterator[pa.Table]:
    """What ``measure`` has written: columns row (ascending over all parts), p_clean, draws and variance."""
    for path in sorted(work.folder.glob("curves-*.parquet")):
        part = pq.read_table(path)
        yield part.filter(pc.is_valid(part["p_clean"]))


def noise_of_draws(work: Work) -> Rows:
    """(L,) ``draw_noise`` of all that was measured."""
    return pooled_noise(
        tuple(matrix(part[name], NUM_LEVELS) for name in ("p_clean", "variance", "draws"))  # type: ignore[misc]
        for part in measured_parts(work)
    )


def unreadable_now(records: pa.Table, work: Work) -> pa.Table:
    """The records; those that could not be measured have status ``unreadable`` and the reason."""
    problems = pa.concat_tables(
        pq.read_table(path, columns=["row", "problem"]) for path in sorted(work.folder.glob("curves-*.parquet"))
    )
    problems = problems.filter(pc.is_valid(problems["problem"]))
    gone = np.zeros(len(records), dtype=bool)
    gone[problems["row"].to_numpy()] = True
    reasons = pc.replace_with_mask(
        records["reason"].combine_chunks(), pa.array(gone), problems["problem"].combine_chunks()
    )
    status = pc.if_else(pa.array(gone), "unreadable", records["status"].cast(pa.string()))
    return replaced(replaced(records, "status", status), "reason", reasons)


def cross_search(
    classifier: CrossFitted, x: torch.Tensor, names: torch.Tensor, told: torch.Tensor, *, run: Run, compiled: bool
) -> Curves:
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
                how=config.crossing,
                seed=config.seed,
                compiled=compiled,
            )
            for name, values in out.items():
                values[mine.cpu().numpy()] = getattr(curves, name)
    return Curves(**out)
