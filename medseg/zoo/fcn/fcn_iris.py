"""Multi-scale FCN for irises (MFCN). Liu, Li, Zhang, Liu, Sun, Tan, ICB 2016, doi:10.1109/ICB.2016.7550055.

The texture of an iris is seen by early layers, its place in the eye by late ones. Each of six layers, from the first
pooling of a VGG-like network to its last fully connected layer as a convolution, gives a map of scores; all six are
brought to full size and added, so that fine and global evidence decide each pixel together, without a sliding window.
Differs from the paper: Not confirmed beyond abstract and names of layers (conv11, pool14, conv14a): they fit VGG-16's 13
convolutions and 5 poolings counted through, with a score layer behind each pooling and behind fc7, which makes the 31
layers with two fully connected layers, six scores and five upsamplings. Kernels of fc6 and fc7 are FCN's. In volumes
they have 3x3x3 and 1024 channels. Upsampling is learned from a linear start. Norm is none, as in VGG.
Oracle: none kept; the sum of its six score maps.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.upsample import learned_linear_up


class IrisFCN(nn.Module):
    """MFCN on (B, in_channels, *S) -> logits (B, classes, *S).

    widths: channels of VGG's stages. fc_channels, fc_kernel: of the layers that stand for fully connected ones (None:
    4096 and 7 in planes, 1024 and 3 in volumes).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        fc_channels: int | None = None,
        fc_kernel: int | None = None,
    ) -> None:
        super().__init__()
        self.divisor = (32,) * dims
        hidden = fc_channels or (4096 if dims == 2 else 1024)
        kernel = fc_kernel or (7 if dims == 2 else 3)
        self.encoder = VGG(dims, in_channels, widths, VGG16)
        bare = Style("none", "relu")
        self.fc = nn.Sequential(
            ConvNormAct(dims, widths[-1], hidden, kernel, bare),
            nn.Dropout(0.5),
            ConvNormAct(dims, hidden, hidden, 1, bare),
            nn.Dropout(0.5),
        )
        self.score = nn.ModuleList(nd.CONV[dims](w, classes, 1) for w in (*widths, hidden))
        kaiming(self)
        self.up = nn.ModuleList(learned_linear_up(dims, classes, stride) for stride in self.encoder.strides)

    def scores(self, x: Tensor) -> list[Tensor]:
        """The six maps of scores, finest first, the last two on the grid of the fifth pooling."""
        features = self.encoder(x)
        layers = [*features, self.fc(features[-1])]
        return [score(layer) for score, layer in zip(self.score, layers, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        *maps, pooled, connected = self.scores(x)
        total = self.up[-1](pooled + connected)
        for up, scores in zip(self.up, maps, strict=False):
            total = total + up(scores)
        return total
