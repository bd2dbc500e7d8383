"""Classifiers that never judge what they trained on: a pool is cut into folds, and each picture is scored by the one
that was trained without its fold.

Which fold a picture is in depends on its content id and the seed alone, so it can be computed again at any time, for
pictures that are added later too.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..schemas.errors import UserError
from ..schemas.space import Space
from . import digests
from .classifier import ClassifierConfig, QualityClassifier
from .damage import Damage
from .noise import Purpose, words
from .whole import write_whole

FOLDS = 2


def folds_of(names: Tensor, folds: int, seed: int) -> Tensor:
    """(N,) int64 fold of each picture; names: (N,) int64 from ``names_of``."""
    return words(names, 1, seed=seed, purpose=Purpose.FOLD)[:, 0] % folds


class CrossFitted(nn.Module):
    """members[k] was trained without the pictures of fold k, and judges those.

    groups: names of the groups of other pictures that the members can be told, in their order: sources, of which the
    last one stands for every name that is not listed, or, where there is a `damage` to find them by, groups of damage.
    spread: (L,) standard deviation of the log odds between classifiers of the same recipe, at each level of the grid.
    calibration: [low, high, before, after] of each band of noise levels, the expected calibration error.
    """

    def __init__(
        self,
        members: Iterable[QualityClassifier],
        *,
        seed: int,
        groups: tuple[str, ...],
        spread: Sequence[float] = (0.0,),
        calibration: Sequence[list[float]] = (),
        damage: Damage | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.seed, self.groups, self.spread = seed, groups, list(spread)
        self.calibration, self.damage = list(calibration), damage

    @property
    def space(self) -> Space:
        first = self.members[0]
        assert isinstance(first, QualityClassifier)
        return first.space

    def folds(self, names: Tensor) -> Tensor:
        """(N,) which member judges each of these pictures."""
        return folds_of(names, len(self.members), self.seed)

    def told(self, sources: Iterable[str], pictures: Tensor) -> Tensor:
        """(N,) int64 group of each of these pictures, (N, C, H, W) uint8 or float in the space."""
        if self.damage is not None:
            return self.damage.groups(pictures)
        number, last = {name: i for i, name in enumerate(self.groups)}, len(self.groups) - 1
        return torch.tensor([number.get(source, last) for source in sources], dtype=torch.int64, device=pictures.device)


def save_classifier(path: Path, classifier: CrossFitted) -> str:
    """Write the weights of all members and, in the header, what they need as JSON. Returns the file's BLAKE2b-128."""
    first = classifier.members[0]
    assert isinstance(first, QualityClassifier)
    header = {
        "space": classifier.space.to_json(),
        "config": asdict(first.config),
        "folds": len(classifier.members),
        "seed": classifier.seed,
        "groups": classifier.groups,
        "spread": classifier.spread,
        "calibration": classifier.calibration,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    data = save(tensors, metadata={"ambient-classifier": json.dumps(header, sort_keys=True)})
    write_whole(path, data)
    return digests.of_bytes(data)


def load_classifier(path: Path) -> tuple[CrossFitted, str]:
    """The classifiers in a file written by ``save_classifier``, in evaluation mode, and the file's BLAKE2b-128."""
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ambient-classifier"])
        tensors = load(data)
        space, config = Space.from_json(header["space"]), ClassifierConfig(**header["config"])
        classifier = CrossFitted(
            [QualityClassifier(space, config) for _ in range(header["folds"])],
            seed=header["seed"],
            groups=tuple(header["groups"]),
            spread=header["spread"],
            calibration=header.get("calibration", ()),
            damage=Damage(**found) if (found := _under("damage.", tensors)) else None,
        )
        classifier.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path} is not a classifier written by this version of ambient ({error})") from error
    return classifier.eval(), digests.of_bytes(data)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
