"""Swin UNETR. Hatamizadeh, Nath, Tang, Yang, Roth, Xu, BrainLes 2021, arXiv:2201.01266.

A Swin transformer (self-attention in small windows that shift from block to block, so that cost is linear in voxels)
encodes patches of 2x2x2 voxels in a pyramid; a convolutional decoder with skips from every stage segments.
Differs from the paper: no self-supervised pretraining; norms of the decoder are an option.
Oracle: it is MONAI 1.6 SwinUNETR, adapted; the published 61.98 M with 4 channels and 3 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SwinUNETR(nn.Module):
    """MONAI's SwinUNETR on (B, in_channels, *S) -> logits (B, classes, *S). width: a multiple of 12.

    checkpointing: keep what enters each block of attention, not what it computes inside, as the authors train it: less
    memory and a second forward pass in training, the same gradients.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        norm: str = "instance",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from monai.networks.nets import SwinUNETR as Adapted

        self.divisor = (32,) * dims
        self.minimum = ((64 if norm == "instance" else 32),) * dims
        with torch.device(
            "cpu"
        ):  # it reads numbers from tensors while it is built, which meta tensors have not
            net = Adapted(
                in_channels=in_channels,
                out_channels=classes,
                depths=tuple(depths),
                num_heads=tuple(heads),
                feature_size=width,
                norm_name=norm,
                use_checkpoint=checkpointing,
                spatial_dims=dims,
            )
        self.net = net.to(torch.get_default_device())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
