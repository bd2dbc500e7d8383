"""The configuration of a training run: one frozen dataclass, presets, and ``key=value`` settings."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..schemas.errors import UserError
from ..schemas.usable import BUFFER
from .networks.unet import UNetConfig
from .target import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train. Progress is counted in training pictures, not steps.

    num_images: to train on in all. batch_size: pictures per step.
    lr: of Adam, reached over the share ``warmup`` of the run, lowered to 0 in a line over its last share ``decay``.
    ema_halflife: of the average of the weights that samples are drawn from.
    P_mean, P_std: of ln sigma in training (arXiv 2206.00364, table 1).
    buffer: b of arXiv 2506.10038; a picture is used above sqrt(b / (b - 1)) * sigma_min.
    target: ``ambient`` (the paper's loss) or ``plain`` (the same pictures and levels, target w_0).
    num_classes: 0, or train with the manifest's labels 0 ... num_classes - 1.
    label_dropout: share of the pictures trained as class "none", as pictures without a label are: what classifier-free
    guidance needs (arXiv 2207.12598 takes 0.1).
    resolution: refuse a manifest annotated for another one.
    log_images, sample_images, snapshot_images: between lines of metrics.jsonl, sample grids, checkpoints.
    sample_count: pictures in a grid. keep: checkpoints kept.
    precision: bf16 runs the network in bfloat16 with float32 weights; auto does that on CUDA.
    compile: the network by torch.compile; auto does that on CUDA when a million pictures or more are to come.
    """

    num_images: int = 200_000
    batch_size: int = 64
    lr: float = 1e-3
    warmup: float = 0.02
    decay: float = 0.5
    ema_halflife: float = 5_000
    P_mean: float = -1.2
    P_std: float = 1.2
    buffer: float = BUFFER
    target: Target = "ambient"
    num_classes: int = 0
    label_dropout: float = 0.0
    resolution: int | None = None
    seed: int = 0
    log_images: int = 2_000
    sample_images: int = 20_000
    snapshot_images: int = 20_000
    sample_count: int = 64
    keep: int = 2
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    network: UNetConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "log_images", "sample_images", "snapshot_images", "keep"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("num_classes", "sample_count", "seed"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative: {getattr(self, name)}")
        for name in ("warmup", "decay", "label_dropout"):
            _require(0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("lr", "ema_halflife", "P_std"):
            _require(0 < getattr(self, name) < float("inf"), f"{name} must be above 0, not {getattr(self, name)}")
        _require(abs(self.P_mean) <= 10, f"P_mean is the mean of ln sigma and must lie in [-10, 10], not {self.P_mean}")
        _require(self.P_std <= 5, f"P_std is the spread of ln sigma and must be at most 5, not {self.P_std}")
        _require(1 < self.buffer < float("inf"), f"buffer must be above 1, not {self.buffer}")
        hints = typing.get_type_hints(type(self))
        for name in ("target", "precision", "compile"):
            choices = typing.get_args(hints[name])
            _require(getattr(self, name) in choices, f"{name} must be one of {', '.join(choices)}")

    @property
    def num_steps(self) -> int:
        return -(-self.num_images // self.batch_size)

    def lr_at(self, num_images: int) -> float:
        """Learning rate of the step that begins after num_images pictures."""
        total = self.num_steps * self.batch_size
        warm = (num_images + self.batch_size) / max(self.warmup * total, 1)
        left = (total - num_images) / max(self.decay * total, 1)
        return self.lr * min(1.0, warm, left)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "TrainConfig":
        """The inverse of to_json, also after a trip through JSON text, which turns tuples into lists."""
        network: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["network"].items()}
        return cls(**{**fields, "network": UNetConfig(**network)})

    @classmethod
    def from_settings(cls, settings: Sequence[str], *, preset: str = "smoke") -> "TrainConfig":
        """The preset with changes such as ``["lr=1e-4", "network.channels=64"]``.

        Raises UserError for an unknown preset or key (naming the nearest) and for a value that does not fit.
        """
        if preset not in PRESETS:
            raise UserError(f"there is no preset {preset!r}{_nearest(preset, PRESETS)}")
        config = PRESETS[preset]
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise UserError(f"a setting is written key=value, such as lr=1e-4, not {setting!r}")
            config = _changed(config, key.strip(), value.strip())
        return config


def first_difference(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """(dotted key, value in a, value in b) of the first key at which two nested dictionaries differ, or None."""
    for key in [*a, *(k for k in b if k not in a)]:
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            if found := first_difference(left, right, f"{prefix}{key}."):
                return found
        elif left != right:
            return f"{prefix}{key}", left, right
    return None


def _changed(config: TrainConfig, key: str, value: str) -> TrainConfig:
    """config with one dotted key set from text."""
    types_ = {**_types(TrainConfig), **{f"network.{k}": v for k, v in _types(UNetConfig).items()}}
    del types_["network"]
    if key not in types_:
        raise UserError(f"there is no setting {key!r}{_nearest(key, types_)}")
    parsed = _parse(key, value, types_[key])
    parent, _, name = key.rpartition(".")
    if parent:
        return dataclasses.replace(config, network=dataclasses.replace(config.network, **{name: parsed}))
    return dataclasses.replace(config, **{name: parsed})


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _parse(key: str, text: str, kind: Any) -> Any:
    """Text to a value of an annotated type: int, float, int | None, tuple[int, ...] or a Literal of strings."""
    try:
        if typing.get_origin(kind) is Literal:
            return text  # checked by the dataclass, which lists the choices
        if typing.get_origin(kind) is tuple:
            return tuple(_whole(part) for part in text.strip("()[]").split(",") if part.strip())
        if typing.get_origin(kind) is types.UnionType:
            return None if text.lower() == "none" else _whole(text)
        return _whole(text) if kind is int else float(text)
    except ValueError as error:
        expected = {int: "a whole number", float: "a number"}.get(kind, "whole numbers such as 1,2,2")
        raise UserError(f"{key} must be {expected}, not {text!r}") from error


def _whole(text: str) -> int:
    """``200000``, ``200_000`` or ``2e5``."""
    if not (value := float(text)).is_integer():
        raise ValueError(text)
    return int(value)


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": choose among {', '.join(names)}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


PRESETS = {
    # Minutes on two CPU cores, 32x32.
    "smoke": TrainConfig(
        num_images=60_000,
        batch_size=64,
        lr=2e-3,
        ema_halflife=3_000,
        log_images=1_024,
        sample_images=10_240,
        snapshot_images=5_120,
        sample_count=36,
        network=UNetConfig(channels=16, multipliers=(1, 2, 3), blocks=1),
    ),
    # Minutes on one GPU, 32x32 or 64x64.
    "small": TrainConfig(
        num_images=5_000_000,
        batch_size=512,
        lr=1e-3,
        ema_halflife=200_000,
        log_images=51_200,
        sample_images=512_000,
        snapshot_images=512_000,
        network=UNetConfig(channels=128, multipliers=(1, 2, 2), blocks=2, attention_resolutions=(16,), dropout=0.1),
    ),
}
