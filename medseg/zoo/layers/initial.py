"""Starting values of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONVS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def kaiming(net: nn.Module, slope: float = 0.0) -> None:
    """Normal weights of variance 2 / ((1 + slope^2) fan-in), biases 0. He et al. 2015, arXiv:1502.01852."""
    for module in net.modules():
        if isinstance(module, CONVS):
            nn.init.kaiming_normal_(module.weight, a=slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def keep_variance(net: nn.Module) -> None:
    """Normal weights of variance 1 / fan-in, biases 0: what layers without an activation pass on keeps its size."""
    for module in net.modules():
        if isinstance(module, CONVS):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def linear_kernel(dims: int, factor: int) -> Tensor:
    """The kernel (2f, ...) that upsamples linearly by f as a transposed convolution. Long et al. 2015."""
    line = 1 - (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
    kernel = line
    for _ in range(dims - 1):
        kernel = kernel[..., None] * line
    return kernel
