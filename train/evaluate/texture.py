"""The built-in features: fixed, without training, without a download. Layout, and oriented energies in a pyramid.

In the manner of scattering networks (arXiv 1203.1513): wavelet, modulus, average, and the same once more; the wavelets
of each scale act on the picture at half the size of the one before, as in a pyramid. Blur, JPEG blocks, noise and wrong
colours move these features; they know nothing of objects, so they cannot tell a cat from a dog of the same texture.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

VERSION = 1
"""Counts changes of what the features are: part of their digest."""

SCALES = 3
ORIENTATIONS = 4
NUM_FEATURES = 3 * 16 + 4 * SCALES * ORIENTATIONS + 2 * SCALES + (SCALES - 1) * ORIENTATIONS**2

_FREQUENCY, _WIDTH, _REACH = 3 * math.pi / 4, 0.8, 3  # of the Morlet wavelet: radians per pixel, pixels, pixels
_FLOOR = 0.01  # about one grey level in [-1, 1]: less is rounding
_TYPICAL = 0.05  # modulus of photographs: logs are about 0, where the kernel distance sees differences best
_OPPONENT = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))  # luma, red - green, yellow - blue


def texture(pixels: Tensor) -> Tensor:
    """(N, 134) float32 features of pictures (N, 3, H, W) uint8, H and W >= 8.

    In order: means of luma and two colour differences in 4 x 4 cells; log moduli of luma at 3 scales and 4 orientations
    in 2 x 2 cells; log moduli of the colour differences at 3 scales; log moduli of the luma's moduli one scale further,
    less the log of those moduli.
    """
    mix = torch.tensor(_OPPONENT, device=pixels.device)
    x = torch.einsum("oc,nchw->nohw", mix, pixels.float() / 127.5 - 1)
    parts = [functional.adaptive_avg_pool2d(x, 4).flatten(1)]
    for scale in range(SCALES):
        luma, red_green, yellow_blue = (_moduli(x[:, i : i + 1]) for i in range(3))
        parts.append(_log(functional.adaptive_avg_pool2d(luma, 2)).flatten(1))
        colour = torch.stack([red_green.mean(dim=(1, 2, 3)), yellow_blue.mean(dim=(1, 2, 3))], dim=1)
        parts.append(_log(colour))
        if scale < SCALES - 1:
            parts.append(_second_order(luma))
            x = functional.avg_pool2d(x, 2)
    return torch.cat(parts, dim=1)


def _second_order(moduli: Tensor) -> Tensor:
    """(N, 16): how much each orientation's modulus (N, 4, H, W) varies, and along which direction."""
    num = len(moduli)
    again = _moduli(functional.avg_pool2d(moduli, 2).flatten(0, 1)[:, None]).mean(dim=(2, 3))
    return (_log(again.view(num, ORIENTATIONS, -1)) - _log(moduli.mean(dim=(2, 3)))[:, :, None]).flatten(1)


def _moduli(x: Tensor) -> Tensor:
    """(N, 4, H, W) moduli of (N, 1, H, W) filtered by the wavelets; edges are continued by their last value."""
    padded = functional.pad(x, [_REACH] * 4, mode="replicate")
    out = functional.conv2d(padded, _wavelets().to(x.device))
    return out.view(len(x), 2, ORIENTATIONS, *x.shape[2:]).square().sum(dim=1).sqrt()


@cache
def _wavelets() -> Tensor:
    """(8, 1, 7, 7): real, then imaginary parts of Morlet wavelets of mean 0, turned by 0, 45, 90 and 135 degrees."""
    place = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    y, x = torch.meshgrid(place, place, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * _WIDTH**2))
    waves = []
    for turn in range(ORIENTATIONS):
        angle = math.pi * turn / ORIENTATIONS
        phase = _FREQUENCY * (x * math.cos(angle) + y * math.sin(angle))
        for wave in (torch.cos(phase), torch.sin(phase)):
            wave = envelope * (wave - (envelope * wave).sum() / envelope.sum())
            waves.append(wave / envelope.sum())
    return torch.stack(waves[0::2] + waves[1::2])[:, None].float()


def _log(x: Tensor) -> Tensor:
    return torch.log((x + _FLOOR) / _TYPICAL)
