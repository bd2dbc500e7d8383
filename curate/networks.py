"""Which measures are asked for, and the networks of those that are not built in."""

import difflib
from dataclasses import dataclass, field, replace

import pyarrow as pa
import torch

from ..schemas.errors import UserError
from . import clip, clipscore, duplicates, iqa
from .clipscore import Embedder
from .openclip import ClipConfig
from .scorers import Scorer
from .scores import SCORES


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """by: names of measures; the built-in ones need not be named for a pool, which always has them.

    weights: measure -> local copy of its weights; ``clipiqa`` names those of all its patch sizes, either of
    ``clipscore`` and ``clip_embedding`` those of both.
    """

    by: tuple[str, ...] = ()
    clip: ClipConfig = field(default_factory=ClipConfig)
    weights: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.by:
            _check_name(name)
        if unused := set(self.weights) - {clip.NAMES[0] if n in clip.NAMES else n for n in self.by}:
            raise UserError(f"--weights {sorted(unused)[0]}=FILE: --by does not name this measure")
        if len({self.weights[name] for name in clipscore.NAMES if name in self.weights}) > 1:
            raise UserError("clipscore and clip_embedding are by one network: name its weights once")

    @property
    def by_network(self) -> tuple[str, ...]:
        return tuple(name for name in self.by if name not in SCORES and name not in duplicates.NAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """The measures of a configuration that are not built in.

    embedder: the network of ``clip_embedding``, if that is among them, which also tells how well captions fit.
    """

    scorers: list[Scorer]
    embedder: Embedder | None = None

    def kind(self, name: str) -> pa.DataType:
        """Type of the column of a measure, built in or not."""
        if name == "clip_embedding" and self.embedder:
            return pa.list_(pa.float32(), self.embedder.size)
        return pa.string() if name in duplicates.NAMES else pa.float32()


def load_networks(config: ScoreConfig, device: torch.device) -> Networks:
    """The measures of a configuration that are not built in. Raises UserError where one cannot be set up."""
    clips = [name for name in config.by_network if name in clip.NAMES]
    embeds = [name for name in config.by_network if name in clipscore.NAMES]
    others = [name for name in config.by_network if name not in (*clips, *embeds)]

    def with_weights(*names: str) -> ClipConfig:
        given = [config.weights[name] for name in names if name in config.weights]
        return replace(config.clip, weights=given[0]) if given else config.clip

    scorers = [iqa.scorer(name, config.weights.get(name), device) for name in others]
    scorers += clip.scorers(clips, with_weights("clipiqa"), device) if clips else []
    embedder = Embedder(with_weights(*clipscore.NAMES), device, embeds[0]) if embeds else None
    return Networks(scorers=[*scorers, embedder.scorer()] if embedder else scorers, embedder=embedder)


def _check_name(name: str) -> None:
    if name in (*SCORES, *duplicates.NAMES, *clip.NAMES, *clipscore.NAMES):
        return
    if name not in iqa.names():
        own = (*SCORES, "phash", *clip.NAMES, *clipscore.NAMES)
        close = difflib.get_close_matches(name, [*own, *iqa.names()], n=1)
        near = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(own)}, and those of pyiqa"
        raise UserError(f"there is no measure {name!r}: {near}")
