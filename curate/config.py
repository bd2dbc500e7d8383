"""What an annotation is asked to do."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ..schemas.errors import UserError
from ..schemas.manifest import Crossing
from ..schemas.space import Space
from .crossfit import FOLDS
from .pool import Duplicates
from .ranks import Top

MOST_FOLDS = 20

_INSTEAD = {
    "sigma_min": ("a classifier", ("classifier", "per", "epsilon", "crossing", "draws", "steps", "folds")),
    "classifier": ("training one", ("steps", "folds")),
}
"""Option -> what it takes the place of, and which options then say nothing."""


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotateConfig:
    """What decides the values in a manifest.

    clean: directory or archive of clean pictures; clean_where: SQL predicate over the records that picks them;
    clean_top: the best by rank, which is also what is done when nothing is said. sigma_min: of every picture that is
    not clean, without a classifier; where: SQL predicate over the records that picks those, the others being clean.
    scores: table whose score columns are added. classifier: file of an earlier run, which judges instead of one trained
    here; then nothing is clean unless said. resolution: None takes the classifier's, or the largest power of two <= the
    median short side, at most 256. draws: noise draws per level, on average. per: one threshold per picture or per
    source. crossing: where a curve passes 0.5 - epsilon several times, the first counts, as in arXiv 2506.10038, or
    that of the closest rising curve, which is the careful choice. steps: the most of the classifier's training, which
    its held-out loss ends; None takes 1,000 on a CPU and 32,000 on a GPU. folds: parts of the pool, each judged by a
    classifier that was trained on the others; more of them leave each more to train on, and take longer.
    """

    clean: Path | None = None
    clean_where: str | None = None
    clean_top: Top | None = None
    sigma_min: float | None = None
    where: str | None = None
    scores: Path | None = None
    classifier: Path | None = None
    resolution: int | None = None
    channels: int = 3
    epsilon: float = 0.05
    draws: int = 6
    per: Literal["picture", "source"] = "picture"
    crossing: Crossing = "rising"
    duplicates: Duplicates = "mark"
    steps: int | None = None
    folds: int = FOLDS
    seed: int = 0
    accept_indistinguishable: bool = False

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.clean, self.clean_where, self.clean_top)) > 1:
            raise UserError("--clean, --clean-where and --clean-top all say what is clean: give one of them")
        if self.sigma_min is not None and not self.sigma_min >= 0:
            raise UserError(f"--sigma-min must be a number >= 0, not {self.sigma_min}")
        for given, (place, others) in _INSTEAD.items():
            if getattr(self, given) is not None and (unused := [name for name in others if self._is_given(name)]):
                these = ", ".join(map(_option, unused))
                raise UserError(f"{_option(given)} takes the place of {place}: leave out {these}")
        if self.where is not None and self.sigma_min is None:
            raise UserError("--where says which pictures get --sigma-min: give that, too")
        if self.where is not None and (self.clean or self.clean_where or self.clean_top):
            raise UserError("--where says what is not clean: leave out --clean, --clean-where and --clean-top")
        if not 0 < self.epsilon < 0.5:
            raise UserError(f"epsilon must lie between 0 and 0.5, not {self.epsilon}")
        if not 1 <= self.draws <= 4096:
            raise UserError(f"draws must lie between 1 and 4096, not {self.draws}")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if not 2 <= self.folds <= MOST_FOLDS:
            raise UserError(f"folds must lie between 2 and {MOST_FOLDS}, not {self.folds}")
        if self.duplicates not in ("mark", "keep"):
            raise UserError(f"--duplicates is mark or keep, not {self.duplicates!r}")
        if self.crossing not in ("rising", "first"):
            raise UserError(f"--crossing is rising or first, not {self.crossing!r}")
        if self.per not in ("picture", "source"):
            raise UserError(f"--per is picture or source, not {self.per!r}")
        resolution = 8 if self.resolution is None else self.resolution
        Space(resolution=resolution, channels=self.channels)  # raises UserError now, not after reading

    def _is_given(self, name: str) -> bool:
        return bool(getattr(self, name) != self.__dataclass_fields__[name].default)

    @property
    def clean_predicate(self) -> str | None:
        """What picks the clean pictures in SQL."""
        return f"({self.where}\n) IS NOT TRUE" if self.where is not None else self.clean_where

    def arguments(self) -> list[str]:
        """The command-line options that say the same, those left at their defaults left out."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Top):
                words += value.arguments()
            elif value != field.default:
                option = _option(field.name)
                words += [option] if value is True else [option, str(value)]
        return words
