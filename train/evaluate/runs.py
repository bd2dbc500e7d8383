"""A training run as a set of samples: which folder is one, which of its weights are measured, and what they draw."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...curate.reporter import Reporter
from ...curate.whole import writing
from ...schemas.errors import UserError
from ..checkpoint import folders, newest
from ..config import TrainConfig
from ..generate import SampleConfig, generate
from .sources import is_manifest

_DRAWN = "generated"  # folder of a run


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """The newest undamaged checkpoint of a run.

    images: training pictures seen, of ``total``. ema_std: length of the average of its weights that is drawn from,
    checksum: of that average. flip: whether training showed pictures mirrored, too, untold.
    """

    run: Path
    folder: Path
    images: int
    total: int
    ema_std: float
    checksum: str
    flip: bool

    def to_json(self) -> dict[str, Any]:
        """What was measured, and how it was drawn."""
        how = SampleConfig()
        return {
            "checkpoint": self.checksum,
            "images": self.images,
            "of_images": self.total,
            "ema_std": self.ema_std,
            "solver": how.solver,
            "steps": how.steps,
        }


def is_run(path: Path) -> bool:
    """Whether a folder is a training run, even one that has no checkpoint yet."""
    return bool(folders(path)) or bool(_about(path))


def newest_of(run: Path, reporter: Reporter) -> Newest:
    """What of a run is measured, after a warning where the run is not finished.

    Raises UserError where there is no checkpoint.
    """
    found = newest(run, parts=("ema0",), warn=reporter.warn)
    if found is None:
        raise UserError(f"{run} has no checkpoint yet: train with `ambient train MANIFEST -o {run}`")
    folder, checkpoint = found
    config = TrainConfig.from_json(checkpoint.about["config"])
    total = config.num_steps * config.batch_size
    if checkpoint.num_images < total:
        reporter.warn(f"{run} is not finished: {checkpoint.num_images:,} of {total:,} pictures are trained on")
    return Newest(
        run=run,
        folder=folder,
        images=checkpoint.num_images,
        total=total,
        ema_std=config.ema_stds[0],
        checksum=checkpoint.checksums["ema0"],
        flip=config.flip,
    )


def manifest_of(run: Path) -> Path | None:
    """The manifest that a run was trained on, or None where it is gone."""
    manifest = Path(_about(run).get("manifest", ""))
    return manifest if is_manifest(manifest) else None


def drawn_by(checkpoint: Newest, num: int) -> Path:
    """Where ``num`` pictures of a checkpoint are kept."""
    return checkpoint.run / _DRAWN / f"{checkpoint.folder.name}-{num}.npz"


def draw(checkpoint: Newest, num: int, *, device: str, reporter: Reporter) -> Path:
    """The npz of ``num`` pictures of a run's newest checkpoint, drawn first if it is not there."""
    out = drawn_by(checkpoint, num)
    with writing(checkpoint.run):
        out.parent.mkdir(exist_ok=True)
    return generate(checkpoint.run, out, range(num), npz=True, batch_size=256, device=device, reporter=reporter)


def _about(run: Path) -> dict[str, Any]:
    """config.json of a run; nothing where there is none, or it is of something else."""
    try:
        about = json.loads((run / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) and isinstance(about.get("manifest"), str) else {}
