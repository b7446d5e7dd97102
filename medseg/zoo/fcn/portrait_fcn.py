"""PortraitFCN+. Shen, Hertzmann, Jia, Paris, Price, Shechtman, Sachs, CGF 35(2), 2016, doi:10.1111/cgf.12814.

A convolution does not know where it is, and in a portrait, as on most medical images, much is known from the place
alone. FCN-8s therefore gets, beside the image, a channel for each coordinate and one for the shape that is expected:
the mean of the training masks. Six channels for a photograph.
Differs from the paper: coordinates and the mean mask lie in the frame of the image (-1 to 1 along each axis), not in
that of a face found by landmarks, so images are expected in one pose, and whole images as patches. The authors'
coordinates are zero in the middle of the face and count in widths and heights of their 600 x 800 crops. The mean mask
grows with training (its weights are buffers) instead of being made beforehand. In volumes a third coordinate is added.
Oracle: none kept; FCN-8s with 6 input channels by its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.fcn.fcn import FCN
from medseg.zoo.layers import nd
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.layers.positions import coordinates


class PortraitFCN(nn.Module):
    """PortraitFCN+ on (B, in_channels, *S) -> logits (B, classes, *S).

    widths, fc_channels, fc_kernel: of FCN-8s. grid: voxels along each axis at which the mean mask is kept.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        fc_channels: int | None = None,
        fc_kernel: int | None = None,
        grid: int = 64,
    ) -> None:
        super().__init__()
        self.net = FCN(dims, in_channels + dims + 1, classes, 8, widths, fc_channels, fc_kernel)
        self.divisor, self.classes = self.net.divisor, classes
        self.register_buffer("mean_mask", torch.zeros(1, 1, *(grid,) * dims))
        self.register_buffer("seen", torch.zeros(()))

    def beside(self, x: Tensor) -> Tensor:
        """The image with its coordinates and the mean mask: (B, C, *S) -> (B, C + D + 1, *S)."""
        shape = nd.resize(self.mean_mask, x.shape[2:]).to(x.dtype)
        place = coordinates(x.shape[2:], x.device).to(x.dtype)
        constant = torch.cat([place[None], shape], dim=1)
        return torch.cat([x, constant.expand(len(x), -1, *x.shape[2:])], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.beside(x))

    @torch.no_grad()
    def remember(self, targets: Tensor) -> None:
        """Adds the foreground (every class but the first, or any of overlapping ones) of a batch to the mean mask."""
        if not len(targets):
            return
        dims = self.mean_mask.ndim - 2
        masks, _ = label_masks(targets, self.classes, dims)
        first = 0 if targets.ndim == dims + 2 else 1
        foreground = masks[:, first:].amax(dim=1, keepdim=True) if masks.shape[1] > first else masks
        new = nd.resize(foreground, self.mean_mask.shape[2:]).sum(dim=0, keepdim=True)
        total = self.seen + len(targets)
        self.mean_mask.mul_(self.seen / total).add_(new / total)
        self.seen.copy_(total)

    def training_step(
        self,
        images: Tensor,
        targets: Tensor,
        objective: Callable[[Tensor, Tensor], Tensor],
        known: Tensor | None = None,
    ) -> Tensor:
        """The pipeline's loss; the masks of the batch are remembered after they were predicted.

        known: (B, K) bool; an image in which a class was not drawn adds nothing to the mean mask.
        """
        loss = objective(self(images), targets)
        self.remember(targets if known is None else targets[known.all(dim=1)])
        return loss
