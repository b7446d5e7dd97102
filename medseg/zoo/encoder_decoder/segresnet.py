"""SegResNet. Myronenko, BrainLes 2018, arXiv:1810.11654.

An asymmetric encoder-decoder for 3D MR: a large residual encoder with group norm, whose stages have 1, 2, 2 and 4
blocks, a small decoder that adds (not concatenates) the encoder's features, and linear upsampling. The paper won
BraTS 2018 with a variational auto-encoder branch as a regulariser while training.
Differs from the paper: no auto-encoder branch.
Oracle: it is MONAI 1.6 SegResNet, adapted: medseg adds its input multiple and checks nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SegResNet(nn.Module):
    """MONAI's SegResNet on (B, in_channels, *S) -> logits (B, classes, *S). width: channels of the first stage."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        from monai.networks.nets import SegResNet as Adapted

        self.divisor = (2 ** (len(blocks_down) - 1),) * dims
        self.net = Adapted(
            spatial_dims=dims,
            init_filters=width,
            in_channels=in_channels,
            out_channels=classes,
            dropout_prob=dropout or None,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)
