"""The stage that trains the classifier: what it sees, what it is told, and when it is not believed."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..schemas.errors import UserError
from ..schemas.space import Space
from .calibrate import calibrate
from .classifier import ClassifierConfig
from .columns import is_, words
from .confound import content_of
from .crossfit import FOLDS, CrossFitted, folds_of, load_classifier, save_classifier
from .damage import find_damage
from .fit import MIN_ACCURACY, FitConfig, cross_fit
from .groups import groups_of, numbers_of
from .images import Unusable, load_many
from .noise import names_of
from .noisy import Sample
from .run import Run
from .spread import fold_spread
from .tables import shown

CLASSIFIER = "classifier.safetensors"
_FIT_BYTES, _FIT_PICTURES = 1 << 30, 100_000  # of each set that the classifier trains on, at most
_STEPS = {"cpu": 1000, "cuda": 32_000}  # at most: the held-out loss says when to stop
_NAMED = 5  # sources that a message names
_SMALL = 500  # clean pictures; with fewer, thresholds are rough (docs/log.md, 2026-11-30)
_MORE_FOLDS = 5  # leave each classifier four fifths of the clean pictures


def trained(records: pa.Table, space: Space, run: Run) -> tuple[CrossFitted, str]:
    """The classifiers and the digest of their file: given, or trained now or by a run that was interrupted."""
    path = run.work.folder / CLASSIFIER
    if not path.exists():
        given = run.config.classifier
        classifier = _train(records, space, run) if given is None else load_classifier(given)[0]
        save_classifier(path, classifier)
    classifier, content_hash = load_classifier(path)
    return classifier.to(run.device), content_hash


def _train(records: pa.Table, space: Space, run: Run) -> CrossFitted:
    groups = groups_of(
        words(records.filter(pa.array(is_(records, "status", "ok") & is_(records, "role", "pool"))), "source")
    )
    clean, other = (_sample(records, role, groups, space, run) for role in ("clean", "pool"))
    damage = find_damage(clean.pictures, other.pictures) if len(groups) == 1 else None
    if damage is not None:
        other = replace(other, groups=damage.groups(other.pictures))
        groups = damage.names
        run.reporter.say(f"one source, cut in groups by damage: {_counted(groups, other.groups)}")
    if len(clean.pictures) < _SMALL:
        folds = f", so do --folds {_MORE_FOLDS}" if run.config.folds < _MORE_FOLDS else ""
        run.reporter.warn(
            f"only {len(clean.pictures):,} clean pictures: thresholds are rough, and their intervals wide; more "
            f"help{folds}, and `ambient threshold --use hi` is careful"
        )
    config = FitConfig(steps=run.config.steps or _STEPS[run.device.type], seed=run.config.seed)
    warn_of_confounds(clean, other, config.seed, run)
    network = ClassifierConfig(groups=len(groups))
    with run.reporter.track("training the classifier", config.steps, "steps") as advance:
        fit = cross_fit(
            clean, other, space=space, config=config, folds=run.config.folds, network=network, progress=advance
        )
    run.reporter.say(
        f"{len(fit.members)} classifiers, best after {fit.steps} steps; each on pictures that it has not seen: "
        f"balanced accuracy {fit.accuracy:.3f} at sigma {config.lowest:g}, cross-entropy {fit.held_out_loss:.3f} nats"
    )
    must_distinguish(fit.accuracy, config.lowest, run)
    if not fit.turned:
        run.reporter.warn(
            f"training ended after {config.steps:,} steps, before the loss on held-out pictures had turned: thresholds "
            f"may still move; with --steps {4 * config.steps} it goes on for as long as that helps"
        )
    calibration = calibrate(fit, clean, other, config)
    run.reporter.say(str(calibration))
    return CrossFitted(
        fit.members,
        seed=config.seed,
        groups=groups,
        spread=fold_spread(fit, other, config.seed).tolist(),
        calibration=calibration.rows,
        damage=damage,
    )


def _counted(groups: tuple[str, ...], told: torch.Tensor) -> str:
    counts = told.bincount(minlength=len(groups)).tolist()
    return ", ".join(f"{count:,} {name}" for name, count in zip(groups, counts, strict=True))


def _sample(records: pa.Table, role: str, groups: tuple[str, ...], space: Space, run: Run) -> Sample:
    """Pictures of one set, in the order of ids; a sample where there are too many."""
    of_role = pa.array(is_(records, "status", "ok") & is_(records, "role", role))
    mine = records.select(["uri", "id", "source"]).filter(of_role)
    limit = max(100, min(_FIT_PICTURES, _FIT_BYTES // math.prod(space.shape)))
    mine = mine.take(pc.sort_indices(mine["id"])[:limit])
    pictures, ids = np.empty((len(mine), *space.shape), dtype=np.uint8), mine["id"].to_pylist()
    good: list[int] = []
    for i, picture in load_many(mine["uri"].to_pylist(), space, run.roots, ids=ids, workers=run.workers):
        if not isinstance(picture, Unusable):
            pictures[len(good)] = picture
            good.append(i)
    if len(good) < 2:
        raise UserError("the pictures were readable a moment ago and are not any more: is the pool being changed?")
    told = numbers_of(words(mine, "source")[good], groups)
    return Sample(
        pictures=torch.from_numpy(pictures[: len(good)]).to(run.device),
        names=names_of(mine["id"].take(pa.array(good)), run.device),
        groups=torch.tensor(told, device=run.device),
    )


def must_distinguish(accuracy: float, sigma: float, run: Run) -> None:
    """Do not fail open: a classifier that learned nothing says 0.5 everywhere, which would make every picture clean."""
    if accuracy >= MIN_ACCURACY:
        return
    problem = (
        f"the classifier cannot tell clean pictures from the others: balanced accuracy {accuracy:.3f} on held-out "
        f"pictures at sigma {sigma:g}, below {MIN_ACCURACY}"
    )
    if not run.config.accept_indistinguishable:
        raise UserError(
            f"{problem}; its thresholds would call everything clean. Check the clean set, add pictures or --steps, or "
            "pass --accept-indistinguishable if the pool really is as good as the clean set"
        )
    run.reporter.warn(f"{problem}; going on, as asked: do not trust these thresholds")


def warn_of_strangers(records: pa.Table, classifier: CrossFitted, known: Iterable[str] | None, run: Run) -> None:
    """Say it when a classifier that was given judges sources that it cannot know.

    known: sources that it has judged before, in an update. It can tell which it was trained on where it is told them;
    where it finds damage by itself only those judged before are known.
    """
    if known is None and classifier.damage is not None:
        return
    mine = words(records.filter(pa.array(is_(records, "status", "ok") & is_(records, "role", "pool"))), "source")
    counts = Counter(mine.tolist())
    strange = sorted(set(counts) - set(known or ()) - set(() if classifier.damage else classifier.groups))
    if strange:
        some = ", ".join([*map(shown, strange[:_NAMED]), *["..."] * (len(strange) > _NAMED)])
        run.reporter.warn(
            f"the classifier was trained with nothing, or too little, of the source{'s' * (len(strange) > 1)} {some} "
            f"(pictures: {sum(counts[source] for source in strange):,}): check their thresholds, or train one on all"
        )


def warn_of_confounds(clean: Sample, other: Sample, seed: int, run: Run) -> None:
    """Say it, and by what, when the two sets differ in content: the classifier would take that for quality."""
    folds = folds_of(clean.names, FOLDS, seed), folds_of(other.names, FOLDS, seed)
    content = content_of(clean, other, folds, FOLDS)
    if content.differs:
        causes = [f"by {name} alone with {accuracy:.2f}" for name, accuracy in content.causes.items()]
        how = ", ".join(causes or ["by what is where: another subject, or another camera"])
        run.reporter.warn(
            "clean and other pictures differ in content, not only in quality: as thumbnails of a few pixels they are "
            f"told apart with balanced accuracy {content.accuracy:.2f} (0.5 is chance), {how}. That counts as quality, "
            "and sigma_min comes out too high: choose clean pictures of the others' kind"
        )
