"""GroupNorm in the form that its device runs fastest."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class GroupNorm(nn.GroupNorm):
    """GroupNorm (arXiv 1803.08494) of maps (N, C, H, W), in float32 also where these or its weights are bfloat16.

    Compiled it is made of the moments of each channel, ``by_moments``; otherwise PyTorch's own kernel is faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self.by_moments(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        x, weight, bias = (values.to(wide) for values in (x, self.weight, self.bias))
        return functional.group_norm(x, self.num_groups, weight, bias, self.eps)

    def by_moments(self, x: Tensor) -> Tensor:
        """The compiler turns these into kernels that read channels-last memory in its order; PyTorch's own formula does
        not, and the whole training step takes half as long again. Mean of the squares less square of the mean: the
        variance of ``torch.var_mean`` has a derivative that takes the mean of x once more, and more operations to
        compile. What cancels is below the rounding of x to bfloat16; in float32 the variance of a group whose mean is m
        deviations from 0 is off by about m^2 6e-8 of itself.
        """
        n, c, height, width = x.shape
        x, grouped = x.float(), (n, self.num_groups, -1)
        share = self.num_groups / (c * height * width)
        mean, square = (
            values.sum(dim=(2, 3), keepdim=True).view(grouped).sum(dim=2, keepdim=True) * share for values in (x, x * x)
        )
        deviation = (functional.relu(square - mean * mean) + self.eps).rsqrt()
        scale = deviation * self.weight.view(self.num_groups, -1)
        shift = self.bias.view(self.num_groups, -1) - mean * scale
        return x * scale.view(n, c, 1, 1) + shift.view(n, c, 1, 1)
