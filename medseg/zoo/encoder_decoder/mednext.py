"""MedNeXt. Roy, Koehler, Ulrich, Baumgartner, Petersen, Isensee, Jaeger, Maier-Hein, MICCAI 2023, arXiv:2303.09975.

A U-Net made of ConvNeXt blocks (depth-wise convolution with a large kernel, group norm a channel, expansion,
compression), also for going down and up, so that it scales in depth, width and kernel like a transformer and keeps
the inductive bias of convolutions.
Differs from the paper: kernels are trained at once (the paper starts size 5 from a trained size 3). A training step of L
on 96^3 voxels holds 15.3 GB (counted), with `checkpointing` (size lean) 4.2 GB, that of size small 3.7 GB.
Oracle: it is MONAI 1.6 MedNeXt, adapted: medseg names the sizes and carries its deep supervision over. The authors'
repository has 5.6, 10.5, 17.6 and 61.8 M weights for S, B, M and L and 130 to 500 G operations on 128^3 voxels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg.zoo.outputs import Outputs

VARIANTS: dict[str, dict[str, Any]] = {
    "s": {"expansion": (2,) * 9, "blocks": (2,) * 9},
    "b": {"expansion": (2, 3, 4, 4, 4, 4, 4, 3, 2), "blocks": (2,) * 9},
    "m": {"expansion": (2, 3, 4, 4, 4, 4, 4, 3, 2), "blocks": (3, 4, 4, 4, 4, 4, 4, 4, 3)},
    "l": {"expansion": (3, 4, 8, 8, 8, 8, 8, 4, 3), "blocks": (3, 4, 8, 8, 8, 8, 8, 4, 3)},
    "tiny": {"expansion": (2,) * 9, "blocks": (1,) * 9},
}
"""Expansion and blocks of four stages down, the bottom, and four up."""


def computed_twice(block: nn.Module, *inputs: Tensor) -> Tensor:
    """What a block makes of its inputs; in training these alone are kept, and the block is computed again backwards."""
    forward = type(block).forward
    if not (block.training and torch.is_grad_enabled()):
        return forward(block, *inputs)
    # Nothing inside is random, so that both passes are the same without the generator's state.
    return checkpoint(forward, block, *inputs, use_reentrant=False, preserve_rng_state=False)


class MedNeXt(nn.Module):
    """MONAI's MedNeXt on (B, in_channels, *S) -> logits (B, classes, *S).

    variant: s, b, m or l. deep_supervision: coarser decoder levels as auxiliary outputs, weights 1/2, 1/4, ...
    checkpointing: keep what enters each block, not what it computes inside, as the authors' code offers it: less
    memory and a second forward pass in training, the same gradients.
    `minimum`: the least size of an axis, as a norm over one voxel has no variance.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        variant: str = "l",
        kernel: int = 3,
        width: int = 32,
        deep_supervision: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from monai.networks.blocks.mednext_block import MedNeXtBlock
        from monai.networks.nets import MedNeXt as Adapted

        if variant not in VARIANTS:
            raise ValueError(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
        self.divisor, self.minimum = (16,) * dims, (32,) * dims
        expansion, blocks = VARIANTS[variant]["expansion"], VARIANTS[variant]["blocks"]
        self.net = Adapted(
            spatial_dims=dims,
            init_filters=width,
            in_channels=in_channels,
            out_channels=classes,
            encoder_expansion_ratio=expansion[:4],
            bottleneck_expansion_ratio=expansion[4],
            decoder_expansion_ratio=expansion[5:],
            kernel_size=kernel,
            deep_supervision=deep_supervision,
            use_residual_connection=True,
            blocks_down=blocks[:4],
            blocks_bottleneck=blocks[4],
            blocks_up=blocks[5:],
        )
        for block in self.net.modules() if checkpointing else ():
            if isinstance(block, MedNeXtBlock):
                block.forward = partial(computed_twice, block)  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor | Outputs:
        out = self.net(x)
        if isinstance(out, Tensor):
            return out
        main, *coarser = out
        if not self.training:
            return main
        return Outputs(main, tuple(coarser), tuple(0.5 ** (i + 1) for i in range(len(coarser))))
