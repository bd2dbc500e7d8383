"""GroupNorm in the form that its device runs fastest."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...curate.device import BUILDS_KERNELS


class GroupNorm(nn.GroupNorm):
    """(x - mean) / sqrt(variance + eps) over each group of channels and all positions, then a scale and a shift each.

    GroupNorm (arXiv 1803.08494) of maps (N, C, H, W), in float32 also where these or its weights are bfloat16.

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
        x = x.float()
        total, squares = x.sum(dim=(2, 3)), (x * x).sum(dim=(2, 3))
        if x.is_cuda and BUILDS_KERNELS:
            from .norm_kernel import scale_and_shift

            told = self.weight.float(), self.bias.float(), self.num_groups, height * width, self.eps
            scale, shift = scale_and_shift(total, squares, *told)
        else:
            scale, shift = self._scale_and_shift(total, squares, height * width)
        return x * scale.view(n, c, 1, 1) + shift.view(n, c, 1, 1)

    def _scale_and_shift(self, total: Tensor, squares: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        share = self.num_groups / (total.shape[1] * pixels)
        mean, square = (
            values.view(len(values), self.num_groups, -1).sum(dim=2, keepdim=True) * share
            for values in (total, squares)
        )
        deviation = (functional.relu(square - mean * mean) + self.eps).rsqrt()
        scale = deviation * self.weight.view(self.num_groups, -1)
        return scale.flatten(1), (self.bias.view(self.num_groups, -1) - mean * scale).flatten(1)
