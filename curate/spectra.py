"""What the classifier sees of a picture: energies of spatial frequencies, of 8x8 blocks and of the whole picture."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..schemas.space import Space
from .transforms import dct, hartley, opponent_colours

BLOCK = 8
_BANDS = BLOCK**2  # of each colour in each view
_LARGEST_WHOLE = 64  # side of a picture that is transformed whole


class View(NamedTuple):
    """What is transformed: the picture after so many halvings, in blocks from `shift` pixels on, or whole."""

    halvings: int
    shift: int = 0
    basis: str = "dct"  # of blocks; "whole_dct" or "whole_hartley" of the whole


def views_of(space: Space) -> list[View]:
    """Scales 1, 1/2, 1/4, 1/8 while a block fits; at each, the DCT on the grid of JPEG files and, where there is room,
    on one shifted by half a block, which sees the edges of the first.

    Last the whole picture, or its first scale with sides of at most 64, where frequencies are told apart best: by the
    DCT, which continues a picture by its mirror image, and by Hartley's transform, which continues it by repeating it.
    """
    sides = [(halvings, space.resolution >> halvings) for halvings in range(4)]
    aligned = [View(halvings) for halvings, side in sides if side >= BLOCK]
    shifted = [View(halvings, BLOCK // 2) for halvings, side in sides if side >= 2 * BLOCK]
    whole = next((halvings for halvings, side in sides if side <= _LARGEST_WHOLE), len(sides) - 1)
    return [*aligned, *shifted, View(whole, basis="whole_dct"), View(whole, basis="whole_hartley")]


def complete_views(space: Space) -> list[int]:
    """Which views hold every pixel once; the others repeat some of it, or see a part."""
    return [i for i, view in enumerate(views_of(space)) if view == View(0) or view.basis.startswith("whole")]


class Spectra(nn.Module):
    """Energies of a picture in several views. behind: (views, C * 64) how many coefficients a band's mean is of."""

    behind: Tensor
    colours: Tensor
    dct: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("colours", opponent_colours(space.channels), persistent=False)
        block = dct(BLOCK)
        self.register_buffer("dct", torch.kron(block, block), persistent=False)  # (64, 64)
        self.register_buffer("behind", _counts(space), persistent=False)  # (views, bands)
        whole = space.resolution >> views_of(space)[-1].halvings
        for name, basis in (("whole_dct", dct(whole)), ("whole_hartley", hartley(whole))):
            self.register_buffer(name, basis, persistent=False)
            shares = nn.functional.one_hot(_rings(whole, name), _BANDS).float()
            shares /= shares.sum(dim=0).clamp(min=1)
            self.register_buffer(f"{name}_rings", shares, persistent=False)  # (side * side, 64)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Squares of orthonormal transforms of opponent colours, in several views (see ``views_of``).

        x: (N, C, H, W). Returns one (N, blocks, C * 64) float32 per view; the whole picture is one block, whose bands
        are means over rings of frequencies.
        """
        pyramid = {0: (self.colours @ x.flatten(2)).view(x.shape)}
        views = views_of(self.space)
        for halvings in range(1, 1 + max(view.halvings for view in views)):
            pyramid[halvings] = _halved(pyramid[halvings - 1])
        out = []
        for view in views:
            level = pyramid[view.halvings]
            if view.basis == "dct":
                side = level.shape[-1] - view.shift
                blocks = _blocks(level[:, :, view.shift : side, view.shift : side])
                out.append((blocks @ self.dct).flatten(2).float().square_())
            else:
                basis, rings = getattr(self, view.basis), getattr(self, f"{view.basis}_rings")
                # Transposed: the rings are the same, and both products are large ones.
                energy = ((level @ basis).transpose(2, 3) @ basis).float().square_().flatten(2)
                out.append((energy @ rings).flatten(1)[:, None])
        return out


def _counts(space: Space) -> Tensor:
    """(views, C * 64) how many coefficients a picture's mean energy of a band is of."""
    counts = []
    for view in views_of(space):
        side = space.resolution >> view.halvings
        if view.basis == "dct":
            one = torch.full((_BANDS,), float(((side - 2 * view.shift) // BLOCK) ** 2))
        else:
            one = _rings(side, view.basis).bincount(minlength=_BANDS).float()
        counts.append(one.repeat(space.channels))
    return torch.stack(counts)


def _rings(side: int, basis: str) -> Tensor:
    """Ring of each frequency of a whole picture, (side * side,) int64 in 0 ... 63, evenly spaced in radius."""
    axis = torch.arange(side, dtype=torch.float64)
    if basis == "whole_hartley":
        axis = torch.minimum(axis, side - axis)
    radius = torch.hypot(axis[:, None], axis).flatten()
    return (radius / radius.max().clamp(min=1) * (_BANDS - 1)).round().long()


def _halved(x: Tensor) -> Tensor:
    """Half the side: sums of 2x2 pixels over 2, so that white noise stays white."""
    top, bottom = x[..., ::2, :], x[..., 1::2, :]
    rows = top[..., : bottom.shape[-2], :] + bottom
    left, right = rows[..., ::2], rows[..., 1::2]
    return 0.5 * (left[..., : right.shape[-1]] + right)


def _blocks(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, blocks, C, 64); a remainder at the right and bottom is left out."""
    n, c, height, width = x.shape
    h, w = height // BLOCK, width // BLOCK
    x = x[:, :, : h * BLOCK, : w * BLOCK].reshape(n, c, h, BLOCK, w, BLOCK)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, c, BLOCK * BLOCK)
