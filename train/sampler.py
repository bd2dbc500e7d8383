"""Which picture at which noise level: sigma from the training density, then one of the pictures usable there."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..curate.noise import Purpose, words
from ..schemas.errors import UserError
from ..schemas.usable import BETA

MAX_UNCOVERED = 1e-4
"""Share of the training density at which no picture may be usable before training is refused."""

_CHUNK = 1 << 14  # draws worked on at a time, so that the temporaries stay in cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncovered:
    """Noise levels low <= sigma <= high at which no picture is usable, and their share of the training density."""

    low: float
    high: float
    share: float


class Sampler:
    """Draws (row, sigma): ln sigma ~ N(P_mean, P_std^2), the row uniform among those usable at sigma.

    A pure function of (seed, global index of the training picture), in O(log N) per draw without rejection.
    With ``clean`` the composition is kept: the row is one of the others that are usable at sigma as often as
    ``pool_share`` says, but none more often than a clean one, and else one of the clean set. For few clean pictures are
    outnumbered by even a small part of many others, and the first of these to be usable are subjects that the damage
    harms least, or that look as if damaged: drawn uniformly, they change what there is to see at that level. Without
    ``pool_share``, which needs curves (curate/composition.py), it is one of all that are usable as often as one of the
    others is usable.

    A picture with sigma_max <= beta * sigma_min has two disjoint usable sets, above the one and below the other;
    any other is usable everywhere. So the sorted lower bounds and the sorted upper bounds, each counted by bisection,
    number the usable pictures of any sigma.
    """

    _remedy = "move P_mean and P_std"
    _most_uncovered = MAX_UNCOVERED

    def __init__(
        self,
        sigma_min: Tensor,
        sigma_max: Tensor,
        *,
        P_mean: float,
        P_std: float,
        beta: float = BETA,
        seed: int = 0,
        clean: Tensor | None = None,
        pool_share: Tensor | None = None,
    ) -> None:
        """sigma_min, sigma_max: (N,) thresholds of the pictures with status ``ok``, >= 0, inf allowed.

        P_mean, P_std: of ln sigma (arXiv 2206.00364, table 1). beta: see ``schemas/usable.py``.
        clean: (N,) bool, the clean set, to keep the composition as above; those of it that are not usable everywhere
        count as others. None: every usable picture is as likely. pool_share: (2, L) noise levels, ascending, and the
        shares at these; between them linear in ln sigma.
        Raises UserError where there is no picture, or none is usable on more than MAX_UNCOVERED of the density.
        """
        self._mean, self._std = P_mean, P_std
        self._prepare(sigma_min, sigma_max, beta, seed, clean, pool_share)

    def _prepare(
        self,
        sigma_min: Tensor,
        sigma_max: Tensor,
        beta: float,
        seed: int,
        clean: Tensor | None,
        pool_share: Tensor | None,
    ) -> None:
        """Number the pictures by their bounds, and check that the density, which is set already, is covered."""
        if len(sigma_min) == 0:
            raise UserError("the manifest has no picture with status 'ok': nothing to train on")
        self._seed = seed
        above = sigma_min.double().cpu() * beta
        below = sigma_max.double().cpu()
        everywhere = below > above
        above, below = torch.where(everywhere, -1.0, above), torch.where(everywhere, 0.0, below)
        self._num, self._num_everywhere = len(above), int((above <= 0).sum())
        if clean is not None:  # the clean set comes first of all
            above = torch.where(clean.cpu() & (above <= 0), -2.0, above)
        self._num_clean = int((above == -2.0).sum())
        self._keeps = 0 < self._num_clean < self._num
        self._pool_share = None if pool_share is None or pool_share.shape[1] == 0 else _Line(*pool_share.double().cpu())
        # Levels are float32, and one is above a bound exactly if it is above the float32 at or below that bound.
        floor = above.float()
        floor = torch.where(floor.double() > above, torch.nextafter(floor, torch.tensor(-math.inf)), floor)
        self._above, self._row_above = _sorted(floor, floor < math.inf)
        self._below, self._row_below = _sorted(below.float(), below > 0)
        self.uncovered = self._find_uncovered(low=float(below.max()), high=float(above.min()))
        if self.uncovered.share > self._most_uncovered:
            raise UserError(_no_picture(self.uncovered, self._most_uncovered, self._remedy))

    @property
    def num_everywhere(self) -> int:
        """Pictures that are usable at every noise level."""
        return self._num_everywhere

    @property
    def num_clean(self) -> int:
        """Pictures of the clean set, where the composition is kept; else 0."""
        return self._num_clean

    def tensors(self) -> list[Tensor]:
        """What is kept per picture: 8 bytes for each bound that is not trivial."""
        return [self._above, self._row_above, self._below, self._row_below]

    def draw(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """indices: (B,) int64 global indices of training pictures. Returns rows (B,) int64 and sigma (B,) float32."""
        rows = torch.empty(len(indices), dtype=torch.int64)
        sigma = torch.empty(len(indices), dtype=torch.float32)
        for start in range(0, len(indices), _CHUNK):
            part = slice(start, start + _CHUNK)
            bits = words(indices[part].cpu(), 4, seed=self._seed, purpose=Purpose.DRAW)
            sigma[part] = self._sigma(_uniform(bits[:, 0], bits[:, 1]))
            rows[part] = self._row(sigma[part], _uniform(bits[:, 2], bits[:, 3]))
        return rows, sigma

    def usable_count(self, sigma: Tensor) -> Tensor:
        """How many pictures are usable at each sigma (B,) float32, exactly. Returns (B,) int64."""
        high, low = self._counts(sigma)
        return high + low

    def chance_of_clean(self, sigma: Tensor) -> Tensor:
        """Probability with which one clean picture is drawn at each sigma (B,). Returns (B,).

        Where the composition is not kept, one that is usable everywhere.
        """
        count = self.usable_count(sigma)
        if not self._keeps:
            return 1 / count
        share = self._share_of_usable(count, sigma)
        return share / count + (1 - share) / self._num_clean

    def _share_of_usable(self, count: Tensor, sigma: Tensor) -> Tensor:
        """How often one of all that are usable is drawn, (B,) float64; among these are the clean ones."""
        others = (count - self._num_clean).double()
        if self._pool_share is None:
            return others / (self._num - self._num_clean)
        return (self._pool_share(sigma.double().cpu().log()) * count / others.clamp(min=1.0)).clamp(max=1.0)

    def _counts(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        level = sigma.float()
        high = torch.searchsorted(self._above, level, side="left")
        low = len(self._below) - torch.searchsorted(self._below, level, side="right")
        return high, low

    def _row(self, sigma: Tensor, u: Tensor) -> Tensor:
        """Picture number floor(u * count) among the usable: those by their lower bound first, then by their upper."""
        high, low = self._counts(sigma)
        count = high + low
        if self._keeps:
            share = self._share_of_usable(count, sigma)
            is_usable = u < share
            u = torch.where(is_usable, u / share, (u - share) / (1 - share))
            count = torch.where(is_usable, count, self._num_clean)
        k = torch.minimum((u * count).long(), count - 1)
        from_below = len(self._row_below) - 1 - (k - high)
        last = len(self._row_above) - 1
        lowest = len(self._row_below) - 1
        rows = torch.where(k < high, self._row_above[k.clamp(max=last)], self._row_below[from_below.clamp(0, lowest)])
        return rows.long()

    def _sigma(self, u: Tensor) -> Tensor:
        """Inverse CDF of the training density without the uncovered levels, rounded to float32.

        Rounding comes before any comparison: what is trained on is what was checked.
        """
        gap = self.uncovered
        if gap.share > 0:
            u = u * (1 - gap.share)
            u = torch.where(u < self._cdf(gap.low), u, u + gap.share).clamp(max=1 - 2.0**-53)
        sigma = torch.exp(self._mean + self._std * torch.special.ndtri(u)).float()
        if gap.low <= gap.high:  # rounding may have led into the gap, or onto a gap that is one point
            middle = math.sqrt(gap.low) * math.sqrt(gap.high)
            inside = (sigma.double() >= gap.low) & (sigma.double() <= gap.high)
            sigma = torch.where(inside & (sigma.double() < middle), _float_below(gap.low), sigma)
            sigma = torch.where(inside & (sigma.double() >= middle), _float_above(gap.high), sigma)
        return sigma

    def _find_uncovered(self, low: float, high: float) -> Uncovered:
        return Uncovered(low=low, high=high, share=max(0.0, self._cdf(high) - self._cdf(low)))

    def _cdf(self, sigma: float) -> float:
        """Share of the training density below sigma."""
        if sigma <= 0:
            return 0.0
        return 0.5 * math.erfc((self._mean - math.log(sigma)) / (self._std * math.sqrt(2)))


class LevelSampler(Sampler):
    """Draws (row, sigma) as ``Sampler`` does, but sigma uniformly from a list: the timesteps of a DDPM schedule, say.

    The picture is chosen for the very level that it is trained at. To draw sigma first and round it to a timestep
    afterwards would lead some pictures across their thresholds.
    """

    _remedy = "leave those levels out"
    _most_uncovered = 0.0  # there is nothing beside a level that could be drawn in its stead

    def __init__(
        self,
        sigma_min: Tensor,
        sigma_max: Tensor,
        *,
        levels: Tensor,
        beta: float = BETA,
        seed: int = 0,
        clean: Tensor | None = None,
        pool_share: Tensor | None = None,
    ) -> None:
        """levels: (T,) noise levels, rounded to float32, each as likely. Other arguments and errors as ``Sampler``.

        Raises UserError for a level that is not above 0 and finite, as the last one of a schedule may be, and for one
        at which no picture is usable.
        """
        self._levels = levels.float().cpu()
        if len(levels) == 0 or not bool(((self._levels > 0) & self._levels.isfinite()).all()):
            raise UserError("levels must be one or more noise levels above 0 and finite: leave the others out")
        self._prepare(sigma_min, sigma_max, beta, seed, clean, pool_share)

    def _sigma(self, u: Tensor) -> Tensor:
        return self._levels[(u * len(self._levels)).long().clamp(max=len(self._levels) - 1)]

    def _find_uncovered(self, low: float, high: float) -> Uncovered:  # noqa: ARG002
        """Of a list, the levels themselves are asked, not the bounds."""
        bare = self._levels[self.usable_count(self._levels) == 0].double()
        if len(bare) == 0:
            return Uncovered(low=math.inf, high=-math.inf, share=0.0)
        return Uncovered(low=float(bare.min()), high=float(bare.max()), share=len(bare) / len(self._levels))


def _sorted(bounds: Tensor, matters: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds that matter, at least one, in ascending order, and the pictures' numbers as small integers."""
    rows = matters.nonzero()[:, 0] if matters.any() else torch.zeros(1, dtype=torch.int64)
    values, order = bounds[rows].sort(stable=True)
    numbers = rows[order]
    return values, numbers.int() if len(bounds) < 2**31 else numbers


def slots(start: int, num: int, *, rank: int = 0, world_size: int = 1) -> Tensor:
    """Global indices of one rank's pictures among start ... start + num - 1: every world_size-th, so ranks never meet.

    Returns int64. The union over ranks is the same for any world_size.
    """
    return torch.arange(start + rank, start + num, world_size)


class _Line:
    """Values (L,) at noise levels (L,), between them linear in ln sigma, constant beyond."""

    def __init__(self, levels: Tensor, values: Tensor) -> None:
        self._at, self._values = levels.log(), values
        self._slopes = torch.cat([values.diff() / self._at.diff(), torch.zeros(1)])

    def __call__(self, x: Tensor) -> Tensor:
        x = x.clamp(self._at[0], self._at[-1])
        k = torch.searchsorted(self._at, x, right=True) - 1
        return self._values[k] + self._slopes[k] * (x - self._at[k])


def _uniform(high: Tensor, low: Tensor) -> Tensor:
    """Two 32-bit words (int64) to float64 in (0, 1), with 52 random bits."""
    return ((high << 20 | low >> 12).double() + 0.5) * 2.0**-52


def _float_above(x: float) -> Tensor:
    """The smallest float32 above the float64 x."""
    nearest = torch.tensor(x, dtype=torch.float64).float()
    return nearest if nearest.double() > x else torch.nextafter(nearest, torch.tensor(math.inf))


def _float_below(x: float) -> Tensor:
    """The largest float32 below the float64 x."""
    return -_float_above(-x)


def _no_picture(gap: Uncovered, most: float, remedy: str) -> str:
    if gap.low == 0 and math.isinf(gap.high):
        return (
            "no picture is usable at any noise level, 100% of the training density: add clean pictures (sigma_min 0), "
            "or decide the thresholds again (`ambient threshold`)"
        )
    levels = f"between sigma {gap.low:.4g} and {gap.high:.4g}"
    if math.isinf(gap.high):
        levels = f"above sigma {gap.low:.4g}"
    elif gap.low == 0:
        levels = f"below sigma {gap.high:.4g}"
    return (
        f"no picture is usable {levels}, which holds {gap.share:.2%} of the training density "
        f"(at most {most:.2%} may be uncovered): add clean pictures (sigma_min 0), "
        f"decide the thresholds again (`ambient threshold`), or {remedy}"
    )
