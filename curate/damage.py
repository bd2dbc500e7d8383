"""Groups of damage in a pool that has one source, found from the pictures alone.

What p_clean says of a damage depends on what else is in S_B (curate/classifier.py), so that unlike damages should be
told apart. Each picture is described by how much energy is missing from, or too much in, its fine bands for a picture
of its coarse contrast, in units of what clean pictures scatter by: what remains of content is small. Whatever lies
where clean pictures lie is one group, be it clean or mildly damaged: cut in parts, its truly clean pictures would be
known by their part. The rest is cut only where there is a gap.

The group of a picture follows from its pixels and from the numbers that lie in the classifier's file, so pictures that
are added later get theirs in the same way.
"""

import torch
from torch import Tensor, nn

from .jpeg import dct_basis
from .units import to_unit

_BANDS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 14))  # diagonals of the block DCT
_BLOCK = 8
_QUIET = 1e-5  # energy of rounding to 8 bits
_MOST = 8192  # pictures of each set that groups are found from
_LOOKS_CLEAN = 0.975  # of the clean pictures
_RIDGE = 0.02  # of the covariance, in squared nats
_STARTS, _ROUNDS = 16, 20
_SMALLEST = 20  # pictures in a group
_GAP = 6.0  # of two groups' centres, in mean standard deviations along the line: 2.7 for halves of one, more by chance


class Damage(nn.Module):
    """Groups of damage: what looks clean, if anything does, then K others; ``names`` has them in order.

    content: (3, D) expected log energies given the coarse contrast; whiten: (D, D) of what is left, mean: (D,); limit:
    () distance up to which a picture looks clean, negative where there is no such group; centres: (K, D).
    """

    content: Tensor
    whiten: Tensor
    mean: Tensor
    limit: Tensor
    centres: Tensor

    def __init__(self, **numbers: Tensor) -> None:
        super().__init__()
        for name, value in numbers.items():
            self.register_buffer(name, value.float())

    @property
    def names(self) -> tuple[str, ...]:
        looks_clean = ("looks clean",) if self.limit >= 0 else ()
        return (*looks_clean, *(f"damage {k + 1}" for k in range(len(self.centres))))

    @torch.no_grad()
    def groups(self, pictures: Tensor) -> Tensor:
        """(N,) int64 group of each picture; pictures: (N, C, H, W) uint8, or float in the space."""
        found = [self._groups(part) for part in torch.split(pictures, 1024)]
        return torch.cat([torch.zeros(0, dtype=torch.int64, device=pictures.device), *found])

    def _groups(self, pictures: Tensor) -> Tensor:
        energies = described(pictures)
        z = (energies[:, 1:] - _powers(energies) @ self.content - self.mean) @ self.whiten
        nearest = torch.cdist(z, self.centres).argmin(dim=1) + (self.limit >= 0)
        return torch.where(z.norm(dim=1) <= self.limit, 0, nearest)


@torch.no_grad()
def find_damage(clean: Tensor, other: Tensor) -> Damage | None:
    """Groups of the other pictures; None where they are all of one. clean, other: (N, C, H, W) uint8 or float."""
    a, b = (
        torch.cat([described(part) for part in torch.split(pictures[:_MOST], 1024)]).double().cpu()
        for pictures in (clean, other)
    )
    halves = [_distances(_ordinary(a[i::2]), a[1 - i :: 2])[1].quantile(_LOOKS_CLEAN) for i in (0, 1)]
    numbers = _ordinary(a)
    z, distance = _distances(numbers, b)
    limit = torch.stack(halves).max()
    if (distance <= limit).sum() < _SMALLEST:
        limit = torch.tensor(-1.0)
    far = z[distance > limit]
    if len(far) < _SMALLEST:
        return None
    centres = _apart(far)
    if len(centres) == 1 and limit < 0:
        return None
    return Damage(**numbers, limit=limit, centres=centres).to(clean.device)


def described(pictures: Tensor) -> Tensor:
    """(N, 1 + D) log energies of bands of brightness and colour, on the grid of JPEG blocks and beside it: coarse
    brightness first."""
    x = to_unit(pictures) if pictures.dtype == torch.uint8 else pictures
    basis, number = torch.tensor(dct_basis()).to(x), torch.arange(_BLOCK)
    diagonal = number[:, None] + number
    bands = torch.stack([((diagonal >= low) & (diagonal <= high)).float() for low, high in _BANDS]).flatten(1).to(x)
    found = []
    for shift in (0, _BLOCK // 2) if min(x.shape[2:]) >= 2 * _BLOCK else (0,):
        inner = x[:, :, shift : x.shape[2] - shift, shift : x.shape[3] - shift]
        blocks = inner.unfold(2, _BLOCK, _BLOCK).unfold(3, _BLOCK, _BLOCK)
        energy = (basis.T @ blocks @ basis).square().mean(dim=(2, 3)).flatten(2)
        if energy.shape[1] == 3:  # brightness, and what is left: colour
            grey = (basis.T @ blocks.mean(dim=1) @ basis).square().mean(dim=(1, 2)).flatten(1)
            energy = torch.stack([3 * grey, energy.sum(dim=1) - 3 * grey], dim=1)
        found.append(torch.log((energy @ bands.T / bands.sum(dim=1)).clamp(min=0) + _QUIET).flatten(1))
    return torch.cat(found, dim=1)


def _powers(energies: Tensor) -> Tensor:
    coarse = energies[:, :1]
    return torch.cat([torch.ones_like(coarse), coarse, coarse.square()], dim=1)


def _ordinary(energies: Tensor) -> dict[str, Tensor]:
    """What clean pictures have in their fine bands, and how much they scatter."""
    design, fine = _powers(energies), energies[:, 1:]
    content = torch.linalg.lstsq(design, fine).solution
    left = fine - design @ content
    covariance = left.T @ left / max(len(left) - 1, 1) + _RIDGE * torch.eye(left.shape[1]).to(left)
    whiten = torch.linalg.cholesky(torch.linalg.inv(covariance))
    return {"content": content, "whiten": whiten, "mean": left.mean(dim=0)}


def _distances(numbers: dict[str, Tensor], energies: Tensor) -> tuple[Tensor, Tensor]:
    left = energies[:, 1:] - _powers(energies) @ numbers["content"] - numbers["mean"]
    z = left @ numbers["whiten"]
    return z, z.norm(dim=1)


def _apart(points: Tensor) -> Tensor:
    """(K, D) centres of groups with gaps between them: k-means from far-off starts, then what has no gap is joined."""
    centres = points.mean(dim=0, keepdim=True)
    for _ in range(_STARTS):
        farthest = torch.cdist(points, centres).amin(dim=1).argmax()
        centres = torch.cat([centres, points[farthest : farthest + 1]])
    for _ in range(_ROUNDS):
        group = torch.cdist(points, centres).argmin(dim=1)
        counts = group.bincount(minlength=len(centres))
        kept = [g for g in range(len(centres)) if counts[g] >= min(_SMALLEST, int(counts.max()))]
        centres = torch.stack([points[group == g].mean(dim=0) for g in kept])
    group = torch.cdist(points, centres).argmin(dim=1)
    while len(centres) > 1:
        gaps = {(i, j): _gap(points[group == i], points[group == j]) for i in range(len(centres)) for j in range(i)}
        (i, j), smallest = min(gaps.items(), key=lambda item: item[1])
        if smallest >= _GAP:
            break
        group[group == i] = j
        group[group > i] -= 1
        centres = torch.stack([points[group == g].mean(dim=0) for g in range(len(centres) - 1)])
    return centres


def _gap(a: Tensor, b: Tensor) -> float:
    """Distance of two groups' centres in units of their mean standard deviation along the line between them."""
    line = b.mean(dim=0) - a.mean(dim=0)
    spread = ((a @ line).std(correction=0) + (b @ line).std(correction=0)) / 2
    return float(line.square().sum() / spread.clamp(min=1e-9))
