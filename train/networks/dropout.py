"""Dropout whose random numbers cost next to nothing."""

import torch
from torch import Tensor, nn

_WORD = 2**31


class Dropout(nn.Module):
    """Zero a share p of the entries and scale the others by 1 / (1 - p), as ``torch.nn.Dropout`` does.

    A compiled ``torch.nn.Dropout`` makes ten rounds of Philox for each entry, an estimated 3 % of a U-Net's training
    step. Here an entry's place is hashed together with two random words per call, and the backward pass hashes again
    instead of storing a mask.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        seeds = torch.randint(-_WORD, _WORD, (2,), device=x.device).to(torch.int32)
        place = torch.arange(x.numel(), device=x.device, dtype=torch.int32).view(x.shape)
        keep = (hashed(place, seeds[0], seeds[1]) & (_WORD - 1)) >= round(self.p * _WORD)
        return x * keep / (1 - self.p)


def hashed(place: Tensor, seed: Tensor, other: Tensor) -> Tensor:
    """A 32-bit word of which every bit depends on every bit of the place and of the first seed; int32 to int32.

    Two rounds of xor, shift and multiplication (constants: Wellons, "Prospecting for hash functions", 2018), the
    second seed between them, so that no two seeds give one mask in another order.
    """
    word = place ^ seed
    word = (word ^ _shifted(word, 16)) * 0x21F0AAAD
    word = word ^ other
    word = (word ^ _shifted(word, 15)) * -0x2CA5D269
    return word ^ _shifted(word, 15)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in from the left."""
    return (word >> bits) & ((1 << (32 - bits)) - 1)
