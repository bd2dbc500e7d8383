"""Gaussian random fields with a power-law spectrum: images whose optimal answers are known in closed form.

A field is stationary and periodic, so its Fourier coefficients X_k (orthonormal transform) are independent, Gaussian,
with variance P_k; blur multiplies them by H_k; white noise of standard deviation sigma adds sigma^2 to every variance.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Fields:
    """resolution: side in pixels. slope: power falls as 1/f^slope. sigma_data: standard deviation of a pixel."""

    resolution: int = 16
    slope: float = 2.0
    sigma_data: float = 0.5

    def frequency(self) -> Tensor:
        """(R, R) float64, in cycles per pixel."""
        f = torch.fft.fftfreq(self.resolution, dtype=torch.float64)
        return torch.hypot(f[:, None], f[None, :])

    def power(self) -> Tensor:
        """(R, R) P_k; its mean is sigma_data^2. The constant component has the power of the lowest frequency."""
        p = self.frequency().clamp(min=1.0 / self.resolution) ** -self.slope
        return p * (self.sigma_data**2 / p.mean())

    def transfer(self, blur: float) -> Tensor:
        """(R, R) H_k of a Gaussian blur with standard deviation `blur` pixels: exp(-2 pi^2 blur^2 f^2)."""
        return torch.exp(-2 * (math.pi * blur * self.frequency()) ** 2)

    def draw(self, num: int, *, blur: float = 0.0, seed: int = 0) -> Tensor:
        """(num, 1, R, R) float32 fields, blurred."""
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(num, self.resolution, self.resolution, generator=generator, dtype=torch.float64)
        if num == 0:  # MKL refuses to transform nothing
            return white.float()[:, None]
        spectrum = torch.fft.fft2(white, norm="ortho") * self.power().sqrt() * self.transfer(blur)
        return torch.fft.ifft2(spectrum, norm="ortho").real.float()[:, None]

    def log_likelihood(self, energy: Tensor, sigma: Tensor, *, blur: float) -> Tensor:
        """log p(x) up to a constant, x = blurred field + sigma * noise.

        energy: (N, R, R) of x's Fourier coefficients; sigma: (N,). Returns (N,).
        """
        variance = self.power() * self.transfer(blur) ** 2 + sigma.double()[:, None, None] ** 2
        return -0.5 * (variance.log() + energy / variance).sum(dim=(1, 2))

    def optimal_logit(self, x: Tensor, sigma: Tensor, *, blurs: list[float]) -> Tensor:
        """Log odds of "clean" for the best classifier of clean fields against an equal mixture of blurs, half and half.

        x: (N, 1, R, R); sigma: (N,), or one level for all as (1,). Returns (N,) float64.
        """
        energy = torch.fft.fft2(x.double()[:, 0], norm="ortho").abs().square()
        bad = torch.stack([self.log_likelihood(energy, sigma, blur=b) for b in blurs])
        return self.log_likelihood(energy, sigma, blur=0.0) - (torch.logsumexp(bad, dim=0) - math.log(len(blurs)))

    def optimal_denoiser(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x], the Wiener filter P / (P + sigma^2), for clean fields. Shapes as above; returns float32."""
        gain = self.power() / (self.power() + sigma.double()[:, None, None] ** 2)
        return torch.fft.ifft2(torch.fft.fft2(x.double()[:, 0], norm="ortho") * gain, norm="ortho").real.float()[
            :, None
        ]

    def optimal_error(self, sigma: float) -> float:
        """Mean squared error per pixel of the optimal denoiser: mean of P sigma^2 / (P + sigma^2)."""
        p = self.power()
        return float((p * sigma**2 / (p + sigma**2)).mean())
