"""A manifest in anybody's training loop: a Sampler and a Dataset for ``torch.utils.data.DataLoader``.

The sampler decides which picture is used at which noise level, and the dataset does as it is told, so no picture is
ever seen at a level where it is not trusted. ``train/target.py`` makes of a batch what a denoiser sees and what it is
asked for, ``train/parametrize.py`` translates that for DDPM and rectified flow.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ..curate.units import to_unit
from ..schemas.errors import UserError
from .pictures import load_row
from .rows import Rows
from .sampler import Sampler, slots
from .target import fixed_noise, fresh_noise, noise_floor

_AHEAD = 1 << 14  # pictures drawn at a time: the sampler is fastest in large lots


class Draw(NamedTuple):
    """Training picture ``number``: which row of ``Rows`` at which noise level (a float32). The number names its e."""

    row: int
    sigma: float
    number: int


class Draws(data.Sampler[Draw]):
    """Yields training pictures start, start + 1, ... num_images - 1 as the indices of a ``ManifestDataset``.

    A pure function of the sampler and of the number of the picture: to resume, make another one whose ``start`` is the
    number of pictures seen so far. Rank r of world_size takes every world_size-th, so that all together see the same
    pictures in the same steps, whatever world_size is, as long as the global batch is the same. What does not divide
    evenly among ranks is left out at the end.

    Another pass (an epoch) is as long and goes on with the pictures after the last one's, so that no noise comes twice.
    To begin one while the last has pictures left raises UserError: workers draw ahead, so what was used is not known.
    """

    def __init__(
        self, sampler: Sampler, *, num_images: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """num_images, start: counted over all ranks; the first pass goes from start to num_images.

        Raises UserError for a rank outside 0 ... world_size - 1, and for a start above num_images.
        """
        if not 0 <= rank < world_size or not 0 <= start <= num_images:
            raise UserError(
                f"rank {rank} of {world_size}, pictures {start} to {num_images}: rank must be below world_size, and "
                "start not above num_images"
            )
        self._sampler, self._next, self._rank, self._world_size = sampler, start, rank, world_size
        self._num = (num_images - start) // world_size * world_size
        self._left = 0  # of the pass that has begun

    def __iter__(self) -> Iterator[Draw]:
        if self._left:  # not asked before the first picture is: a DataLoader makes iterators that it never uses
            raise UserError(
                "a pass over these Draws has begun and not ended, and more may have been drawn than was used: make new "
                "Draws, whose start is the number of pictures seen"
            )
        start, end = self._next, self._next + self._num
        self._next, self._left = end, len(self)
        lot = _AHEAD * self._world_size
        for first in range(start, end, lot):
            indices = slots(first, min(lot, end - first), rank=self._rank, world_size=self._world_size)
            rows, sigma = self._sampler.draw(indices)
            for draw in map(Draw, rows.tolist(), sigma.tolist(), indices.tolist()):
                self._left -= 1
                yield draw

    def __len__(self) -> int:
        """Number of this rank's pictures in a pass."""
        return self._num // self._world_size


class ManifestDataset(data.Dataset[dict[str, Tensor]]):
    """The pictures of a manifest, with all that a target needs. Its indices are ``Draw``, not numbers.

    An item holds ``w0`` (C, R, R), the picture in [-1, 1]; ``sigma``, and the noise floor ``s``; ``z``, the noise that
    the picture keeps for the whole run, and fresh noise ``e``, shaped as w0: all float32. Beside them, int64: ``label``
    (-1 without one), ``row``, and ``name`` and ``number``, from which z and e are made.

    Pictures are read and decoded when they are asked for, so give the DataLoader workers. Whoever flips w0 must flip z
    with it.
    """

    def __init__(self, rows: Rows, *, seed: int = 0, noise: bool = True) -> None:
        """rows: from ``read_rows``. seed: of z and e.

        noise: False leaves z and e out, for large pictures, whose noise costs the workers more than decoding: on a GPU
        ``fixed_noise(name, ...)`` and ``fresh_noise(number, ...)`` of ``target.py`` make the same in no time.
        """
        self.rows, self.seed, self.noise = rows, seed, noise

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[dict[str, Tensor]]:
        """Items of a whole batch, for which noise comes six times as fast as one by one; a DataLoader calls this.

        Raises UserError where a picture cannot be read or is not the annotated one any more, and TypeError for numbers.
        """
        if wrong := [index for index in draws if not isinstance(index, Draw)]:
            raise TypeError(
                f"a ManifestDataset is asked for a Draw, which says at which noise level, not for {wrong[0]!r}: "
                "pass sampler=Draws(...) to the DataLoader"
            )
        rows = self.rows
        row, number = (torch.tensor(column) for column in ([d.row for d in draws], [d.number for d in draws]))
        sigma = torch.tensor([draw.sigma for draw in draws], dtype=torch.float32)
        columns = {
            "w0": to_unit(torch.from_numpy(np.stack([load_row(rows, draw.row) for draw in draws]))),
            "sigma": sigma,
            "s": noise_floor(sigma, rows.sigma_min[row], rows.sigma_max[row]),
            "label": rows.labels[row],
            "row": row,
            "name": rows.names[row],
            "number": number,
        }
        if self.noise:
            columns["z"] = fixed_noise(columns["name"], rows.space.shape, seed=self.seed)
            columns["e"] = fresh_noise(number, rows.space.shape, seed=self.seed)
        return [{name: column[i] for name, column in columns.items()} for i in range(len(draws))]
