"""``ambient eval``: one set of samples against one set of real pictures."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from ... import __version__
from ...curate import digests
from ...curate.device import choose_device
from ...curate.networks import ScoreConfig, load_networks
from ...curate.ranks import good_end
from ...curate.reporter import Reporter
from ...curate.scores import SCORES
from ...curate.uris import Roots
from ...curate.whole import write_whole, writing
from ...schemas.errors import UserError
from ...schemas.space import Space
from ..cache import cache_folder
from ..generate import NUM_STEPS
from .diversity import vendi
from .extractors import Extractor, open_extractor
from .labelled import save_classifier, train_classifier
from .measures import MEANING, measure, measure_copies, to_json
from .quality import MOST_SCORED, compare_scores
from .reference import reference_of, source_features
from .runs import Newest, draw, drawn_by, is_run, manifest_of, newest_of
from .sources import (
    ALL,
    CLEAN,
    Source,
    check_roots,
    common_space,
    count,
    everything,
    is_manifest,
    open_source,
    read,
    space_of_copies,
)

FEWEST = 8
"""Pictures of each set: k nearest neighbours need more than k."""

MOST_TRAINED_ON = 100_000
"""Training pictures among which copies are looked for."""

_LABELLED = "labels.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What decides the values.

    features: a name of ``extractors.NAMES``. by: measures of quality besides the built-in ones, by the names of
    ``ambient score``. weights: name of either -> local file. where: which rows of a reference manifest.
    num: samples, at most; of a run, so many are drawn, of seeds 0 ... num - 1. seed: of the bootstrap and of choices.
    """

    features: str = "texture"
    by: tuple[str, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    num: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num < FEWEST:
            raise UserError(f"--num must be at least {FEWEST}, not {self.num}")
        for name in self.measures.by:
            if good_end(name) is None:
                raise UserError(f"--by {name}: samples are compared by measures of quality, which {name} is not")

    @property
    def measures(self) -> ScoreConfig:
        """The measures by networks. Raises UserError where there is none of a name."""
        by = tuple(name for name in self.by if name not in SCORES)
        return ScoreConfig(by=by, weights={name: file for name, file in self.weights.items() if self._of_measure(name)})

    @property
    def feature_weights(self) -> dict[str, str]:
        return {name: file for name, file in self.weights.items() if not self._of_measure(name)}

    def _of_measure(self, name: str) -> bool:
        return name != self.features and any(by == name or by.startswith(f"{name}_") for by in self.by)


def evaluate(
    samples: Path,
    reference: Path,
    config: EvalConfig,
    *,
    device: str = "auto",
    workers: int = 4,
    roots: Roots | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Every measure of samples (a run, folder, npz or manifest) against a reference (a pool or manifest), as JSON.

    Of a manifest as samples all usable rows count, of one as reference the clean ones unless ``config`` says which.
    ``measures``: name -> value, error and 90 % interval; ``quality``: score -> medians and win rate; besides what they
    were measured on: numbers and fingerprints of both sets, the extractor's digest, seeds, and of a run the checkpoint
    and how it was drawn from. roots: of the manifests.
    Raises UserError for what the user can put right.
    """
    reporter, place, begin = reporter or Reporter(), choose_device(device), time.monotonic()
    named = config.feature_weights
    opened = None if config.features == "labels" else open_extractor(config.features, place, weights=named)
    scorers = load_networks(config.measures, place).scorers
    run, trained_on = _run_of(samples, reporter)
    check_roots([path for path in (samples, reference, trained_on) if path], roots)
    theirs = open_source(reference, where=config.where, roots=roots, workers=workers, reporter=reporter)
    check_reference(len(theirs), theirs.name)
    path = draw(run, config.num, device=device, reporter=reporter) if run else samples
    ours = open_source(path, where=everything(path), roots=roots, workers=workers, reporter=reporter)
    ours = ours.some(config.num, seed=config.seed)
    space = common_space(ours, theirs)
    reporter.say(f"pictures are compared as {space}")
    if opened is None:
        opened, theirs = extractor_for(config, theirs, space, place, workers, reporter)
    extractor = opened
    _check_enough(len(ours), len(theirs))
    known = reference_of(theirs, space, extractor, workers=workers, reporter=reporter)
    features, kept = source_features(ours, space, extractor, workers=workers, reporter=reporter)
    ours = ours.rows(kept)
    _check_enough(len(ours), known.moments.num)
    warn_of_few(len(features), known.moments.num, features.shape[1], reporter)
    measured = measure(features, known, seed=config.seed)
    pixels, _ = read(ours.some(MOST_SCORED, seed=config.seed), space, workers=workers, reporter=reporter)
    real, _ = read(theirs.some(MOST_SCORED, seed=config.seed), space, workers=workers, reporter=reporter)
    quality = compare_scores(pixels, real, workers=workers, scorers=scorers, device=place, warn=reporter.warn)
    among = theirs
    if trained_on is not None:
        among = open_source(trained_on, where=ALL, roots=roots, workers=workers, reporter=reporter)
    known_ones = trained_pictures(among, space, seed=config.seed, workers=workers, reporter=reporter)
    small, _ = read(ours, space_of_copies(space), workers=workers, reporter=reporter)
    mirrored = run is not None and run.flip
    measured["memorised"] = measure_copies(small, known_ones, place, seed=config.seed, mirrored=mirrored)
    return {
        "samples": {
            "from": str(samples),
            "seeds": f"0-{config.num - 1}" if run else None,
            "run": run.to_json() if run else None,
            "pictures": len(features),
            "fingerprint": ours.fingerprint(),
        },
        "reference": {
            "from": str(reference),
            "where": where_of(reference, config),
            "pictures": known.moments.num,
            "fingerprint": theirs.fingerprint(),
            "vendi": vendi(known.features[: len(features)]),
        },
        "memorised_among": {"from": among.name, "pictures": len(known_ones), "mirrored": mirrored},
        "space": space.to_json(),
        "features": {"name": extractor.name, "digest": extractor.digest, "dimensions": features.shape[1]},
        "measures": to_json(measured),
        "quality": quality,
        "seed": config.seed,
        "device": str(place),
        "torch": torch.__version__,
        "version": __version__,
        "seconds": round(time.monotonic() - begin, 1),
    }


def plan(samples: Path, reference: Path, config: EvalConfig, *, roots: Roots | None = None) -> dict[str, Any]:
    """What ``evaluate`` would do, as JSON, from listings alone.

    ``to_draw``: pictures that a run must draw first, ``denoiser_evaluations`` in all. Raises UserError where there are
    too few pictures, or none.
    """
    run, trained_on = _run_of(samples, Reporter())
    check_roots([path for path in (samples, reference, trained_on) if path], roots)
    num = config.num if run else min(config.num, count(samples, where=everything(samples), roots=roots))
    real = count(reference, where=config.where, roots=roots)
    _check_enough(num, real)
    to_draw = num if run and not drawn_by(run, num).exists() else 0
    return {
        **asdict(config),
        "where": where_of(reference, config),
        "samples": str(samples),
        "run": run.to_json() if run else None,
        "reference": str(reference),
        "sample_pictures": num,
        "reference_pictures": real,
        "pictures_to_draw": to_draw,
        "denoiser_evaluations": to_draw * (2 * NUM_STEPS - 1),  # by Heun's method
        "feature_evaluations": num + real,
    }


def where_of(reference: Path, config: EvalConfig) -> str | None:
    """The predicate that picks the rows of a reference, None for all of a pool."""
    return config.where or (CLEAN if is_manifest(reference) else None)


def check_reference(num: int, name: str) -> None:
    """Raise UserError where a reference has too few pictures."""
    if num < FEWEST:
        raise UserError(f"reference pictures of {name}: {num}; {FEWEST} are needed at least")


def _check_enough(num_samples: int, num_reference: int) -> None:
    if min(num_samples, num_reference) < FEWEST:
        raise UserError(
            f"samples that can be read: {num_samples}, reference pictures: {num_reference}; {FEWEST} of each are "
            "needed at least"
        )


def warn_of_few(num_samples: int, num_reference: int, dimensions: int, reporter: Reporter) -> None:
    """Say when the Frechet distance means little."""
    if min(num_samples, num_reference) <= dimensions:
        reporter.warn(
            f"{num_samples:,} samples and {num_reference:,} reference pictures for {dimensions:,} features: the "
            "Frechet distance is then too large, and compares with others of these numbers only; the "
            "kernel distance is unbiased"
        )


def extractor_for(
    config: EvalConfig, reference: Source, space: Space, device: torch.device, workers: int, reporter: Reporter
) -> tuple[Extractor, Source]:
    """The extractor, and what is left of the reference.

    ``labels`` trains a classifier on one half of the reference's labelled pictures, by content, and leaves the other
    half as the reference: features are least typical on what they were trained on. Raises UserError where that is too
    few.
    """
    if config.features != "labels":
        return open_extractor(config.features, device, weights=config.feature_weights), reference
    if config.feature_weights:
        raise UserError("the features labels are trained, not loaded: leave --weights out")
    rows = {half: [i for i, digits in enumerate(reference.ids) if int(digits[-1], 16) % 2 == half] for half in (0, 1)}
    taught = reference.rows([i for i in rows[0] if reference.labels[i] >= 0])
    if len(taught) == 0 or len(set(taught.labels.tolist())) < 2:
        raise UserError(f"{reference.name} has no labels of two kinds: choose other --features")
    left = reference.rows(rows[1])
    check_reference(len(left), f"the half of {reference.name} that no classifier is trained on")
    file = cache_folder() / "features" / f"{_key(taught, space, config.seed)}-{_LABELLED}"
    if not file.exists():
        reporter.say(f"training a classifier on the labels of {len(taught):,} pictures of the reference")
        pixels, kept = read(taught, space, workers=workers, reporter=reporter)
        network = train_classifier(pixels, taught.labels[kept], seed=config.seed, device=device)
        with writing(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            save_classifier(file, network)
    reporter.say(f"the classifier of these labels is {file}")
    return open_extractor(str(file), device), left


def trained_pictures(source: Source, space: Space, *, seed: int, workers: int, reporter: Reporter) -> Tensor:
    """(T, C, S, S) uint8: the pictures of a training set among which copies are looked for, at most MOST_TRAINED_ON.

    space: in which samples are; seed: of the choice.
    """
    some = source.some(MOST_TRAINED_ON, seed=seed)
    return read(some, space_of_copies(space), workers=workers, reporter=reporter)[0]


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a result, whole or not at all."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, as_json(value))


def as_json(value: dict[str, Any]) -> bytes:
    """As in files of results."""
    return (json.dumps(value, indent=1) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` has written. Raises UserError where it is damaged, or something else."""
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and the same command makes it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} was not written by this command: remove it, or choose another -o")
    return value


def table(result: dict[str, Any]) -> pa.Table:
    """Measures and win rates for people."""
    among = result["memorised_among"]
    mirrored = ", mirrored or not" if among["mirrored"] else ""
    meaning = {
        **MEANING,
        "vendi": f"{MEANING['vendi']}; of the reference {result['reference']['vendi']:.4g}",
        "memorised": f"share of samples that are copies of pictures of {among['from']}{mirrored}",
    }
    rows = [(name, measured, meaning[name]) for name, measured in result["measures"].items()]
    rows += [
        (f"{name} wins", figures["win_rate"], "how often a sample's score beats a reference picture's; 0.5: alike")
        for name, figures in result["quality"].items()
    ]
    return pa.table(
        {
            "measure": [name for name, *_ in rows],
            "value": [measured["value"] for _, measured, _ in rows],
            "low": [measured["low"] for _, measured, _ in rows],
            "high": [measured["high"] for _, measured, _ in rows],
            "meaning": [meaning for *_, meaning in rows],
        }
    )


def _key(source: Source, space: Space, seed: int) -> str:
    labels = digests.of_bytes(source.labels.numpy().tobytes())
    return digests.of_json([source.fingerprint(), labels, space.shape, seed])


def _run_of(samples: Path, reporter: Reporter) -> tuple[Newest | None, Path | None]:
    """What of a run is measured, and the manifest that it was trained on; None for what there is not."""
    if not is_run(samples):
        return None, None
    run, manifest = newest_of(samples, reporter), manifest_of(samples)
    if manifest is None:
        reporter.warn(
            f"the manifest that {samples} was trained on is not there: copies are looked for in the reference"
        )
    return run, manifest
