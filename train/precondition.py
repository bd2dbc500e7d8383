"""EDM's preconditioning: the raw network sees and predicts values of about unit variance at every noise level."""

import torch
from torch import Tensor, nn


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise, condition) (arXiv 2206.00364, eq. 7 and table 1).

    network: F, called with (x, c_noise, condition), same shape out as in.
    sigma_data: standard deviation of the data, in units of x.
    """

    def __init__(self, network: nn.Module, *, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """Estimate of x_0.

        x: (N, C, H, W) = x_0 + sigma * noise. sigma: (N,) or () noise standard deviations > 0, in units of x.
        condition: (N,) int64 classes, or None. Returns (N, C, H, W) float32.
        """
        x = x.float()
        sigma = sigma.float().expand(len(x)).view(-1, 1, 1, 1)
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data * variance.rsqrt()
        c_noise = sigma.flatten().log() / 4
        raw: Tensor = self.network(variance.rsqrt() * x, c_noise, condition)
        return torch.addcmul(c_skip * x, c_out, raw.float())
