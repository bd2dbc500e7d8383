"""Which part of the method does what? The ambient arm with one thing changed at a time.

With s = sigma_min, alpha = (sigma^2 - s^2) / sigma^2, x_n = w_0 + s z, x_t = x_n + sqrt(sigma^2 - s^2) e,
y = x_n - s^2 / sqrt(sigma^2 - s^2) e, lambda as in EDM (docs/evaluation.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from ambient.curate.decide import Rule
from ambient.train import loop
from torch import Tensor

Undo = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """formula: what is trained. settings: of the trainer that differ. patch: puts what it has no setting for into the
    trainer, and returns what takes it out again. rule: of the thresholds, if not a value for each picture.
    """

    formula: str
    settings: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[], Undo] = field(default=lambda: lambda: None)
    rule: Rule | None = None


def fresh() -> Undo:
    """z of the step's own random numbers, which the trainer seeds by how far it is."""
    before = loop.fixed_noise

    def drawn(names: Tensor, shape: tuple[int, ...], *, seed: int) -> Tensor:  # noqa: ARG001
        return torch.randn(len(names), *shape, device=names.device)

    loop.fixed_noise = drawn
    return lambda: setattr(loop, "fixed_noise", before)


def weighted(clip: float) -> Callable[[], Undo]:
    """The loss times alpha^2 min(alpha^-2, clip) = min(1, clip alpha^2)."""

    def patch() -> Undo:
        before = loop.loss_of

        def loss_of(state: Any, batch: Any, *rest: Any) -> dict[str, Tensor]:
            losses = before(state, batch, *rest)
            alpha = (batch.sigma - batch.s) * (batch.sigma + batch.s) / batch.sigma**2
            return {**losses, "trained": losses["trained"] * (clip * alpha**2).clamp(max=1)}

        loop.loss_of = loss_of
        return lambda: setattr(loop, "loss_of", before)

    return patch


ABLATIONS: dict[str, Change] = {
    "ambient": Change(formula="lambda |D - y|^2 = lambda alpha^-2 |alpha D + (1 - alpha) x_t - x_n|^2, z fixed, b = 4"),
    "plain": Change(formula="lambda |D - w_0|^2, z drawn anew each time", settings={"target": "plain"}, patch=fresh),
    "kept": Change(
        formula="as ambient, the composition kept: a damaged one as often as usable ones stand for clean ones",
        settings={"keep_composition": True},
    ),
    "kept-plain": Change(
        formula="as plain, the composition kept",
        settings={"keep_composition": True, "target": "plain"},
        patch=fresh,
    ),
    "source": Change(
        formula="as kept, for all pictures of a source the sigma_min where the mean of their curves crosses",
        settings={"keep_composition": True},
        rule=Rule(per="source"),
    ),
    "hi": Change(
        formula="as kept, sigma_min the upper end of its 90 % interval",
        settings={"keep_composition": True},
        rule=Rule(use="hi"),
    ),
    "fresh": Change(formula="lambda |D - y|^2, z drawn anew each time", patch=fresh),
    "unweighted": Change(formula="lambda |alpha D + (1 - alpha) x_t - x_n|^2", patch=weighted(1.0)),
    "clip-2": Change(formula="lambda min(alpha^-2, 2) |alpha D + (1 - alpha) x_t - x_n|^2", patch=weighted(2.0)),
    "clip-4": Change(formula="lambda min(alpha^-2, 4) |alpha D + (1 - alpha) x_t - x_n|^2", patch=weighted(4.0)),
    "buffer-2": Change(formula="lambda |D - y|^2, b = 2: used above sqrt(2) sigma_min", settings={"buffer": 2.0}),
}
"""Label -> what is trained. Where there is one source, ``source`` is as the arm ``fixed`` with the composition kept."""
