"""Which run writes a manifest: whether it is the one that was stopped, has ended, or another."""

from dataclasses import asdict
from pathlib import Path

import torch

from .. import __version__
from ..schemas.errors import UserError
from ..schemas.manifest import read_metadata
from . import digests
from .config import AnnotateConfig
from .crossfit import FOLDS
from .pool import Found
from .update import Past
from .uris import Roots


def identity_of(found: Found, roots: Roots, config: AnnotateConfig) -> str:
    """Of everything that decides the manifest, of the files that are named their contents."""
    contents = [path and digests.of_file(path) for path in (config.scores, config.classifier)]
    return digests.of_json([options_of(config), contents, roots, found.candidates.digest(), __version__])


def work_id_of(identity: str, device: torch.device, before: Past | None) -> str:
    """Of a run whose finished parts may be used: another kind of device cuts other parts, and trains for longer."""
    since = [before.metadata.fingerprint, before.fresh.candidates.digest()] if before else []
    return digests.of_json([identity, device.type, *since])


def check_same_pool(out: Path, identity: str, options: str, roots: Roots) -> None:
    """Raises UserError where the same command wrote `out`, for a pool that has changed since."""
    try:
        before = read_metadata(out)
    except UserError:  # no manifest: is_finished says what to do
        return
    made_alike = (before.options, before.roots, before.package_version) == (options, roots, __version__)
    if made_alike and before.run != identity:
        raise UserError(
            f"the pool has changed since {out} was written: add --update to annotate what is new or changed, or "
            "--overwrite to annotate all again"
        )


def options_of(config: AnnotateConfig) -> str:
    told = asdict(config) | {name: str(getattr(config, name)) for name in ("clean", "scores", "classifier")}
    if config.folds == FOLDS:
        del told["folds"]  # manifests from before there was a choice are of these
    return digests.of_json(told)
