"""Which part of the method does what? Fashion-MNIST, one row, the ambient arm with one thing changed at a time.

    python benchmarks/proof/ablations.py blur-0.6 --data /usr/share/datasets/fashion-mnist --work /tmp/fashion

Arguments and results as of fashion.py; --arms names ablations. With s = sigma_min, alpha = (sigma^2 - s^2) / sigma^2,
x_n = w_0 + s z, x_t = x_n + sqrt(sigma^2 - s^2) e, y = x_n - s^2 / sqrt(sigma^2 - s^2) e, lambda as in EDM:
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from ambient.train import loop
from ambient.train.evaluate.arms import AMBIENT
from fashion import ROWS, prepare
from prove import Job, arguments, prove, training
from torch import Tensor

ABLATIONS: dict[str, str] = {
    "ambient": "lambda |D - y|^2, z fixed, b = 4, thresholds per picture",
    "plain": "lambda |D - w_0|^2: the same pictures at the same levels, nothing of w_0 hidden",
    "fresh": "lambda |D - y|^2, z drawn anew each time",
    "unweighted": "lambda alpha^2 |D - y|^2 = lambda |alpha D + (1 - alpha) x_t - x_n|^2, without the paper's alpha^-2",
    "clip-2": "lambda alpha^2 min(alpha^-2, 2) |D - y|^2",
    "clip-4": "lambda alpha^2 min(alpha^-2, 4) |D - y|^2",
    "buffer-2": "as ambient with b = 2: used above sqrt(2) sigma_min",
    "source": "as ambient, one sigma_min for all pictures of a source, from its mean curve",
}
"""Name -> what is trained."""

Undo = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", help=f"one of {', '.join(ROWS)}")
    arguments(parser)
    parser.set_defaults(arms=",".join(ABLATIONS))
    options = parser.parse_args()
    options.begin = time.monotonic()
    row, judge = prepare(options.row, options)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    jobs = [job_of(name, seed) for seed in seeds for name in options.arms.split(",") if name]
    prove(row, jobs, judge, training(options), options)


def job_of(name: str, seed: int) -> Job:
    changes: dict[str, Any] = {"plain": {"target": "plain"}, "buffer-2": {"buffer": 2.0}}.get(name, {})
    patches = {"fresh": fresh, "unweighted": weighted(1.0), "clip-2": weighted(2.0), "clip-4": weighted(4.0)}
    per = "source" if name == "source" else "picture"
    return Job(label=name, arm=AMBIENT, seed=seed, per=per, changes=changes, patch=patches.get(name, lambda: _nothing))


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


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
