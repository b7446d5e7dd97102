"""Global convolutional network, "Large Kernel Matters". Peng, Zhang, Yu, Luo, Sun, CVPR 2017, arXiv:1703.02719.

To classify and to localise at once, a classifier should be connected densely to a large window: each stage's features
pass a 15 x 15 convolution built from 15x1 with 1x15 and 1x15 with 15x1, summed, straight to class scores; boundary
refinement adds a residual; scores are brought up stage by stage and added.
Differs from the paper: starting weights, of which it says nothing: transposed convolutions start as linear upsampling,
large kernels with the gain of linear layers. In volumes the factors are k x 1 x 1, 1 x k x 1, 1 x 1 x k in either order.
Oracle: none kept; the factors equal one large kernel where they are of rank one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.heads import BackboneNet
from medseg.zoo.layers.large_kernel import BoundaryRefinement, GlobalConv
from medseg.zoo.layers.upsample import learned_linear_up


class ScoreLadder(nn.Module):
    """Scores of each stage, refined, brought up by transposed convolutions and added to the next finer ones."""

    def __init__(self, dims: int, channels: Sequence[int], classes: int, kernel: int) -> None:
        super().__init__()
        self.scores = nn.ModuleList(
            nn.Sequential(GlobalConv(dims, c, classes, kernel), BoundaryRefinement(dims, classes))
            for c in channels
        )
        self.up = nn.ModuleList(learned_linear_up(dims, classes, 2) for _ in range(len(channels) + 1))
        self.refine = nn.ModuleList(BoundaryRefinement(dims, classes) for _ in range(len(channels) + 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        scores = [score(x) for score, x in zip(self.scores, features, strict=True)]
        x = scores.pop()
        for up, refine in zip(self.up, self.refine, strict=True):
            x = up(x)
            x = refine(x + scores.pop() if scores else x)
        return x


class GlobalConvNet(BackboneNet):
    """GCN on (B, in_channels, *S) -> logits (B, classes, *S). kernel: length of the large kernels, odd."""

    def __init__(
        self, dims: int, in_channels: int, classes: int, backbone: str = "resnet152", kernel: int = 15
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; it is odd")
        encoder = make_resnet(backbone, dims, in_channels)
        super().__init__(dims, encoder, ScoreLadder(dims, encoder.channels, classes, kernel))
