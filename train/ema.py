"""Power-function averages of the weights, and the average of any length afterwards (arXiv 2312.02696, section 3).

An average whose weight at training time t' is proportional to t'^gamma stays the same share of the run long; its length
is the standard deviation sigma_rel of t' relative to the run. Two averages, stored every now and then, are enough to
rebuild that of any other length: the least-squares combination of the stored ones.
"""

import math
from collections.abc import Iterable
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
LONGEST = 0.28  # sigma_rel of gamma = 0, the plain mean of the whole run, is 0.2887

_MOST_ERROR = 0.3  # of a rebuilt profile, relative
Array = NDArray[np.float64]


def gamma_of(sigma_rel: float) -> float:
    """The exponent whose average has this relative standard deviation (eq. 123): the root of a cubic.

    sigma_rel: in (0, 0.28]; sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
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
    path = run / FOLDER / f"{num_images:012d}-{sigma_rel!r}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in weights.items()}
    write_whole(path, save(half))


def reconstruct(run: Path, sigma_rel: float, *, num_images: int | None = None) -> dict[str, Tensor]:
    """Weights averaged as if sigma_rel had been the length all along, float32 on the CPU.

    num_images: at this moment of the run, one at which averages were stored; the last when left out.
    Raises UserError where nothing is stored there, or too little to tell an average of that length.
    """
    if not 0 < sigma_rel <= LONGEST:
        raise UserError(f"the length of an average must lie in (0, {LONGEST}], not {sigma_rel}")
    stored = sorted((run / FOLDER).glob("[0-9]*.safetensors"))
    moments = [(int(path.stem[:12]), float(path.stem[13:])) for path in stored]
    known = sorted({moment for moment, _ in moments})
    end = num_images or (known[-1] if known else 0)
    if end not in known:
        raise UserError(f"{run} has no averages stored at {end:,} pictures: train longer or choose among {known}")
    chosen = [i for i, (moment, _) in enumerate(moments) if moment <= end]
    ends = np.array([moments[i][0] for i in chosen], dtype=np.float64)
    gammas = np.array([gamma_of(moments[i][1]) for i in chosen])

    def fitted(length: float) -> tuple[Array, float]:
        return coefficients(ends, gammas, float(end), gamma_of(length))

    shares, error = fitted(sigma_rel)
    if error > _MOST_ERROR:
        lengths = sorted((k / 1000 for k in range(5, 281)), key=lambda length: abs(math.log(length / sigma_rel)))
        told = (*lengths, moments[chosen[-1]][1])  # the last, of itself, always
        near = next(length for length in told if fitted(length)[1] <= _MOST_ERROR)
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
        raise UserError(f"{path} is damaged ({error}): leave --ema out for an average that is kept whole") from error
    return tensors


def coefficients(ends: Array, gammas: Array, end: float, gamma: float) -> tuple[Array, float]:
    """Shares of the stored averages in the wanted one: least squares between their profiles (appendix C, algorithm 3).

    The shares add up to 1, which the paper does not ask for: else weights that never change would be scaled.
    ends, gammas: (K,) when each stored average ended and its exponent; end, gamma: of the wanted one.
    Returns (K,) shares, and the root mean square error of the profile that they make, relative to the wanted one.
    """
    among = _inner(ends[:, None], gammas[:, None], ends[None], gammas[None])
    wanted = _inner(ends, gammas, np.float64(end), np.float64(gamma))
    size = np.sqrt(np.diag(among))  # profiles of short averages are far larger than those of long ones
    solved = np.linalg.lstsq(among / size / size[:, None], np.stack([wanted, np.ones(len(ends))], 1) / size[:, None])[0]
    free, even = solved.T / size
    shares = free + even * (1 - free.sum()) / even.sum()
    whole = float(_inner(*(np.array(x) for x in (end, gamma, end, gamma))))
    square = 1 - 2 * float(wanted @ shares) / whole + float(shares @ among @ shares) / whole
    return shares, math.sqrt(max(0.0, square))


def _inner(end_a: Array, gamma_a: Array, end_b: Array | np.float64, gamma_b: Array | np.float64) -> Array:
    """Inner product of the profiles (gamma + 1) t^gamma / end^(gamma + 1), t in [0, end] (eq. 151)."""
    early, late = np.minimum(end_a, end_b), np.maximum(end_a, end_b)
    # The power belongs to whichever of the two ended later.
    power = np.where(end_a < end_b, gamma_b, gamma_a)
    product: Array = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (early / late) ** power / late
    return product
