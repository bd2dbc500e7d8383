"""EDM's preconditioning: the raw network sees and predicts values of about unit variance at every noise level."""

import torch
from torch import Tensor, nn


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise, condition) (arXiv 2206.00364, eq. 7 and table 1).

    network: F, called with (x, c_noise, condition), same shape out as in; with augment= too if it has an augment_dim.
    sigma_data: standard deviation of the data, in units of x.
    """

    def __init__(self, network: nn.Module, *, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        uncertain: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Estimate of x_0.

        x: (N, C, H, W) = x_0 + sigma * noise. sigma: (N,) or () noise standard deviations > 0, in units of x.
        condition: (N,) int64 classes, or None. augment: (N, 9) what ``augment.geometric`` did, or None for nothing.
        Returns (N, C, H, W) float32; if ``uncertain`` also u, (N,) float32: the log variance that the network expects
        of its weighted error at this noise level (arXiv 2312.02696, eq. 21), 0 of a network that does not say.
        """
        x = x.float()
        sigma = sigma.float().expand(len(x)).view(-1, 1, 1, 1)
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data * variance.rsqrt()
        c_noise = sigma.flatten().log() / 4
        told = {} if augment is None else {"augment": augment}
        raw: Tensor = self.network(variance.rsqrt() * x, c_noise, condition, **told)
        denoised = torch.addcmul(c_skip * x, c_out, raw.float())
        if not uncertain:
            return denoised
        log_variance = getattr(self.network, "log_variance", torch.zeros_like)
        u: Tensor = log_variance(c_noise)
        return denoised, u.float()

    def normalize_weights_(self) -> None:
        """Forced weight normalisation after a step, of a network that asks for it (arXiv 2312.02696, section 2.3)."""
        normalize = getattr(self.network, "normalize_weights_", None)
        if normalize is not None:
            normalize()
