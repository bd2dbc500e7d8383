"""Power-function averages of the weights, and the average of any length afterwards (arXiv 2312.02696, section 3).

An average whose weight at training time t' is proportional to t'^gamma stays the same share of the run long; its length
is the standard deviation sigma_rel of t' relative to the run. Two averages, stored every now and then, are enough to
rebuild that of any other length: the least-squares combination of the stored ones.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..curate.whole import write_whole
from ..schemas.errors import UserError

FOLDER = "ema"
SHORTEST = 1e-4  # of a run of 10,000 steps, one step; far shorter ones overflow
LONGEST = 0.28  # sigma_rel of gamma = 0, the plain mean of the whole run, is 0.2887

_MOST_ERROR = 0.3  # of a rebuilt profile, relative
_RIDGE = 0.01**2  # what shares whose squares add up to 1 cost, as a square of that error
Array = NDArray[np.float64]


def gamma_of(sigma_rel: float) -> float:
    """The exponent whose average has this relative standard deviation (eq. 123): the root of a cubic.

    sigma_rel: in [SHORTEST, LONGEST]; sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
    """
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def decay(num_images: int, batch_size: int, sigma_rel: float) -> float:
    """What is left of the old average after a batch that ends at num_images (eq. 127): (1 - 1/t)^(gamma + 1)."""
    return float((1 - batch_size / num_images) ** (gamma_of(sigma_rel) + 1))


@torch.no_grad()
def update(average: Iterable[Tensor], weights: Iterable[Tensor], keep: float) -> None:
    """average <- keep * average + (1 - keep) * weights, in place."""
    torch._foreach_lerp_(list(average), list(weights), 1 - keep)


def store(run: Path, num_images: int, sigma_rel: float, weights: dict[str, Tensor]) -> None:
    """Keep an average for reconstruction: run/ema/000012345678-0.05.safetensors, in float16 as in the paper."""
    path = path_of(run, num_images, sigma_rel)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in weights.items()}
    write_whole(path, save(half))


def path_of(run: Path, num_images: int, sigma_rel: float) -> Path:
    """Where an average is kept for reconstruction."""
    return run / FOLDER / f"{num_images:012d}-{sigma_rel!r}.safetensors"


def reconstruct(run: Path, sigma_rel: float, *, num_images: int | None = None) -> dict[str, Tensor]:
    """Weights averaged as if sigma_rel had been the length all along, float32 on the CPU.

    num_images: at this moment of the run, one at which averages were stored; the last when left out.
    Raises UserError where sigma_rel is not in [SHORTEST, LONGEST], nothing is stored there, or too little to tell an
    average of that length.
    """
    if not SHORTEST <= sigma_rel <= LONGEST:
        raise UserError(f"the length of an average must lie in [{SHORTEST}, {LONGEST}], not {sigma_rel}")
    stored = sorted((run / FOLDER).glob("[0-9]*.safetensors"))
    moments = [(int(path.stem[:12]), float(path.stem[13:])) for path in stored]
    known = sorted({moment for moment, _ in moments})
    end = num_images if num_images is not None else max(known, default=0)
    if end not in known:
        nearest = sorted(sorted(known, key=lambda moment: abs(moment - end))[:2])
        choice = f"the nearest moments are {' and '.join(map(str, nearest))}" if nearest else "train longer"
        raise UserError(f"{run} has no averages stored at {end:,} pictures: {choice}")
    chosen = [i for i, (moment, _) in enumerate(moments) if moment <= end]
    ends = np.array([moments[i][0] for i in chosen], dtype=np.float64)
    gammas = np.array([gamma_of(moments[i][1]) for i in chosen])

    def fitted(lengths: Sequence[float]) -> tuple[Array, Array]:
        return coefficients(ends, gammas, float(end), np.array([gamma_of(length) for length in lengths]))

    (shares,), (error,) = fitted([sigma_rel])
    if error > _MOST_ERROR:
        lengths = [k / 1000 for k in range(5, 281)] + [length for moment, length in moments if moment == end]
        reachable = [length for length, miss in zip(lengths, fitted(lengths)[1], strict=True) if miss <= _MOST_ERROR]
        near = min(reachable, key=lambda length: abs(math.log(length / sigma_rel)))  # one stored there, at least
        raise UserError(
            f"the averages that {run} stored do not tell that of length {sigma_rel:g} at {end:,} pictures: "
            f"the nearest that they tell is {near:g}; a smaller snapshot_images stores more"
        )
    total: dict[str, Tensor] = {}
    for i, share in zip(chosen, shares.tolist(), strict=True):
        for name, tensor in _load(stored[i]).items():
            total[name] = total[name].add(tensor, alpha=share) if name in total else share * tensor.float()
    return total


def _load(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is damaged ({error}): without --ema and --at samples are drawn from an average that is kept whole"
        ) from error
    return tensors


def coefficients(ends: Array, gammas: Array, end: float, wanted: Array) -> tuple[Array, Array]:
    """Shares of the stored averages in each wanted one: least squares between profiles (appendix C, algorithm 3).

    Two things the paper does not ask for. The shares add up to 1: else weights that never change would be scaled. And
    their squares have a price: profiles of many moments nearly depend on each other, so that shares of plain least
    squares grow large with alternating signs, which amplifies what rounding to float16 cost each stored average.
    ends, gammas: (K,) when each stored average ended and its exponent. end: of the wanted ones; wanted: (L,) exponents.
    Returns (L, K) shares, and the (L,) root mean square errors of the profiles that they make, relative to the wanted.
    """
    among = _inner(ends[:, None], gammas[:, None], ends, gammas)
    shared = _inner(ends, gammas, np.array(end), wanted[:, None])
    whole = _inner(np.array(end), wanted, np.array(end), wanted)
    values, vectors = np.linalg.eigh(among)  # which inverts among + ridge for every ridge at once
    inverse = 1 / (values + _RIDGE * whole[:, None])
    free = (shared @ vectors * inverse) @ vectors.T
    even = (vectors.sum(0) * inverse) @ vectors.T
    shares = free + even * ((1 - free.sum(1)) / even.sum(1))[:, None]
    square = 1 + np.sum(shares @ among * shares - 2 * shared * shares, axis=1) / whole
    return shares, np.sqrt(np.maximum(0, square))


def _inner(end_a: Array, gamma_a: Array, end_b: Array, gamma_b: Array) -> Array:
    """Inner product of the profiles (gamma + 1) t^gamma / end^(gamma + 1), t in [0, end] (eq. 151)."""
    early, late = np.minimum(end_a, end_b), np.maximum(end_a, end_b)
    # The power belongs to whichever of the two ended later.
    power = np.where(end_a < end_b, gamma_b, gamma_a)
    product: Array = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (early / late) ** power / late
    return product
