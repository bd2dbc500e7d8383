"""Guidance: away from what a worse denoiser says.

D = D_guide + G (D_main - D_guide), which is the denoiser of the density p_main^G / p_guide^(G - 1), up to its
normalisation and taken at each noise level by itself. Three uses of the one formula:

- classifier-free guidance (arXiv 2207.12598): the guide is the same network, told the class "none";
- the same with another, unconditional network, as EDM2 does it (arXiv 2312.02696, section 4);
- autoguidance (arXiv 2406.02507): the guide is a smaller or less trained network, such as the same at an
  earlier moment, told the same class.

G = 1 is the main denoiser alone; arXiv 2207.12598 writes w = G - 1.
"""

from torch import Tensor

from .solvers import Denoise


def guided(main: Denoise, guide: Denoise, scale: float) -> Denoise:
    """The guided denoiser. scale: G. Where it is 1 the guide is never evaluated."""
    if scale == 1:
        return main

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        away = guide(x, sigma)
        return away + scale * (main(x, sigma) - away)

    return denoise
