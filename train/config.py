"""The configuration of a training run: one frozen dataclass, presets in TOML, and ``key=value`` settings."""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

from ..schemas.errors import UserError
from ..schemas.usable import BUFFER
from .augment import NUM_LABELS
from .ema import LONGEST, SHORTEST
from .networks.kinds import KINDS, NetworkConfig, kind_of
from .networks.unet import UNetConfig
from .target import Target

_FILES = ("keep", "log_images", "sample_images", "snapshot_images", "sample_count")
MAY_CHANGE = frozenset(("micro_batch", "compile", "cuda_graphs", "pictures", "sharding", *_FILES))
"""Settings that a continued run may change: what is learnt does not depend on them, but for rounding and dropout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train. Progress is counted in training pictures, not steps.

    num_images: to train on in all; where ``decay`` is 0 a continued run may change it.
    batch_size: pictures per step, on all GPUs together.
    micro_batch: pictures per GPU that go through the network at a time; None for all of them. Best a divisor of them:
    a smaller rest is another shape to compile.
    lr: of Adam, reached in a line over the first ``warmup_images``, lowered from ``lr_ref_images`` on as one over the
    square root of progress (arXiv 2312.02696, eq. 67; None for never) and in a line to 0 over the last share ``decay``.
    beta2, eps: of Adam, whose beta1 is 0.9.
    ema_stds: relative standard deviations of the averages of the weights; samples are drawn from the first.
    P_mean, P_std: of ln sigma in training (arXiv 2206.00364, table 1).
    buffer: b of arXiv 2506.10038; a picture is used above sqrt(b / (b - 1)) * sigma_min.
    keep_composition: draw so that few clean pictures are not outnumbered by subjects that the damage harms least, or
    that look damaged by themselves (see ``Sampler``; with another buffer than the default's, without curves); False
    draws all that are usable alike, as arXiv 2506.10038 does.
    target: ``ambient`` (the paper's loss) or ``plain`` (the same pictures and levels, target w_0).
    num_classes: 0, or train with the manifest's labels 0 ... num_classes - 1.
    label_dropout: share of training pictures whose label is hidden, for classifier-free guidance (arXiv 2207.12598).
    flip: show half of the pictures mirrored, without telling the network.
    augment: probability of each geometric augmentation, which the network is told (arXiv 2206.00364, appendix F.2).
    resolution: refuse a manifest annotated for another one.
    log_images, sample_images, snapshot_images: between lines of metrics.jsonl, sample grids, checkpoints.
    sample_count: pictures in a grid. keep: checkpoints kept.
    precision: bf16 runs the network in bfloat16 with float32 weights; auto does that on CUDA.
    compile: the network by torch.compile; auto does that on CUDA when a million pictures or more are to come.
    cuda_graphs: record a step's kernels on CUDA and replay them, which makes steps of small networks several times as
    fast; not where they take more than half of the GPU's memory, in parts (``micro_batch``), or with ``fsdp``.
    pictures: where the decoded ones live: on the ``device``, in a memory-mapped ``cache`` file, or nowhere (``stream``
    decodes them when they are drawn); auto takes the first for which there is room.
    sharding: ``ddp`` keeps all weights on every GPU, ``fsdp`` a part on each; auto takes the first that fits.
    """

    num_images: int = 200_000
    batch_size: int = 64
    micro_batch: int | None = None
    lr: float = 1e-3
    warmup_images: float = 4_000
    lr_ref_images: int | None = None
    decay: float = 0.5
    beta2: float = 0.99
    eps: float = 1e-8
    ema_stds: tuple[float, ...] = (0.05, 0.1)
    P_mean: float = -1.2
    P_std: float = 1.2
    buffer: float = BUFFER
    keep_composition: bool = True
    target: Target = "ambient"
    num_classes: int = 0
    label_dropout: float = 0.0
    flip: bool = False
    augment: float = 0.0
    resolution: int | None = None
    seed: int = 0
    log_images: int = 2_000
    sample_images: int = 20_000
    snapshot_images: int = 20_000
    sample_count: int = 64
    keep: int = 2
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    cuda_graphs: bool = True
    pictures: Literal["auto", "device", "cache", "stream"] = "auto"
    sharding: Literal["auto", "ddp", "fsdp"] = "auto"
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "log_images", "sample_images", "snapshot_images", "keep"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("num_classes", "sample_count", "seed", "warmup_images"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative: {getattr(self, name)}")
        _require(self.seed < 2**62, f"seed must be below 2^62, not {self.seed}")
        for name in ("decay", "augment"):
            _require(0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("lr", "P_std", "eps"):
            _require(0 < getattr(self, name) < float("inf"), f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("beta2", "label_dropout"):
            _require(0 <= getattr(self, name) < 1, f"{name} must lie in [0, 1), not {getattr(self, name)}")
        _require(
            len(self.ema_stds) >= 1 and all(SHORTEST <= std <= LONGEST for std in self.ema_stds),
            f"ema_stds must be one or more numbers in [{SHORTEST}, {LONGEST}], not {list(self.ema_stds)}",
        )
        for name in ("micro_batch", "lr_ref_images"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1 or none, not {value}")
        _require(abs(self.P_mean) <= 10, f"P_mean is the mean of ln sigma and must lie in [-10, 10], not {self.P_mean}")
        _require(self.P_std <= 5, f"P_std is the spread of ln sigma and must be at most 5, not {self.P_std}")
        _require(1 < self.buffer < float("inf"), f"buffer must be above 1, not {self.buffer}")
        hints = typing.get_type_hints(type(self))
        for name in ("target", "precision", "compile", "pictures", "sharding"):
            choices = typing.get_args(hints[name])
            _require(getattr(self, name) in choices, f"{name} must be one of {', '.join(choices)}")
        _require(
            self.augment == 0 or getattr(self.network, "augment_dim", 0) == NUM_LABELS,
            "augment is told to the network: it needs one with network.augment_dim = 9, such as preset cifar10",
        )
        _require(
            self.label_dropout == 0 or self.num_classes > 0, "label_dropout hides labels: it needs num_classes above 0"
        )

    @property
    def num_steps(self) -> int:
        return -(-self.num_images // self.batch_size)

    def lr_at(self, num_images: int) -> float:
        """Learning rate of the step that begins after num_images pictures."""
        total = self.num_steps * self.batch_size
        warm = (num_images + self.batch_size) / max(self.warmup_images, 1)
        slow = (max(num_images, 1) / self.lr_ref_images) ** -0.5 if self.lr_ref_images else 1.0
        left = (total - num_images) / max(self.decay * total, 1)
        return self.lr * min(1.0, warm) * min(1.0, slow) * min(1.0, left)

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {**fields, "network": {"kind": kind_of(self.network), **fields["network"]}}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "TrainConfig":
        """The inverse of to_json, also after a trip through JSON text, which turns tuples into lists."""
        plain: dict[str, Any] = {key: _tupled(value) for key, value in fields.items()}
        network: dict[str, Any] = {key: _tupled(value) for key, value in plain.pop("network").items()}
        kind, _ = KINDS[network.pop("kind")]
        return cls(**plain, network=kind(**network))

    @classmethod
    def from_settings(cls, settings: Sequence[str], *, preset: str = "smoke") -> "TrainConfig":
        """The preset with changes such as ``["lr=1e-4", "network.channels=64"]``.

        ``network.kind=ddpmpp`` makes it another network of the sizes that both have. Settings may come in any order; of
        two with the same key the last one counts.
        Raises UserError for an unknown preset or key (naming the nearest) and for a value that does not fit.
        """
        texts: dict[str, str] = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise UserError(f"a setting is written key=value, such as lr=1e-4, not {setting!r}")
            texts[key.strip()] = value.strip()
        return _changed(load_preset(preset), texts)


def presets() -> dict[str, str]:
    """Names of the presets and the TOML text of each."""
    folder = files(__package__) / "presets"
    texts = {file.name.removesuffix(".toml"): file.read_text() for file in folder.iterdir()}
    return dict(sorted(texts.items()))


def load_preset(name: str) -> TrainConfig:
    """The preset's configuration. Raises UserError for an unknown one, naming the nearest."""
    known = presets()
    if name not in known:
        raise UserError(f"there is no preset {name!r}{_nearest(name, known)}")
    return TrainConfig.from_json(tomllib.loads(known[name]))


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


def _changed(config: TrainConfig, texts: dict[str, str]) -> TrainConfig:
    """config with these dotted keys set from text, checked when all of them are."""
    kind = _kind(texts["network.kind"]) if "network.kind" in texts else type(config.network)
    types_ = {**_types(TrainConfig), "network.kind": str, **{f"network.{k}": v for k, v in _types(kind).items()}}
    del types_["network"]
    # What the preset's network has of this kind's sizes.
    network = {name: getattr(config.network, name) for name in _types(kind) if hasattr(config.network, name)}
    fields: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in types_:
            raise UserError(f"there is no setting {key!r}{_nearest(key, types_)}")
        if key != "network.kind":
            parent, _, name = key.rpartition(".")
            (network if parent else fields)[name] = _parse(key, text, types_[key])
    return dataclasses.replace(config, **fields, network=kind(**network))


def _kind(name: str) -> type[NetworkConfig]:
    """The configuration of the networks of this name. Raises UserError for an unknown one, naming the nearest."""
    if name not in KINDS:
        raise UserError(f"there is no network.kind {name!r}{_nearest(name, KINDS)}")
    return KINDS[name][0]


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _parse(key: str, text: str, kind: Any) -> Any:
    """Text to a value of an annotated type: bool, int, float, int | None, tuple of numbers or Literal of strings."""
    try:
        if typing.get_origin(kind) is Literal:
            return text  # checked by the dataclass, which lists the choices
        if typing.get_origin(kind) is tuple:
            number = _NUMBERS[typing.get_args(kind)[0]]
            return tuple(number(part) for part in text.strip("()[]").split(",") if part.strip())
        if typing.get_origin(kind) is types.UnionType:
            return None if text.lower() == "none" else _whole(text)
        return _NUMBERS[kind](text)
    except (ValueError, KeyError) as error:
        expected = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "numbers such as 1,2,2")
        raise UserError(f"{key} must be {expected}, not {text!r}") from error


def _whole(text: str) -> int:
    """``200000``, ``200_000`` or ``2e5``."""
    if not set(text) & set(".eE"):
        return int(text)
    if not (value := float(text)).is_integer():
        raise ValueError(text)
    return int(value)


_NUMBERS: dict[type, typing.Callable[[str], Any]] = {
    int: _whole,
    float: float,
    bool: lambda text: {"true": True, "false": False}[text.lower()],
}


_ALSO_CALLED = {"learning_rate": "lr", "dropout": "network.dropout"}


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    names = list(known)
    also = [_ALSO_CALLED[other] for other in difflib.get_close_matches(word, _ALSO_CALLED, n=1, cutoff=0.8)]
    close = [name for name in also if name in names] or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": choose among {', '.join(names)}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
