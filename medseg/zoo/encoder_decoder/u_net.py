"""U-Net. Ronneberger, Fischer, Brox, MICCAI 2015, arXiv:1505.04597.

A contracting path of two 3x3 convolutions and a 2x2 max pooling a level gathers context; an expanding path of
up-convolutions brings the resolution back, and at each level the features of the contracting path are concatenated
so that boundaries stay sharp. Convolutions are unpadded; large images are tiled, the missing border mirrored.
Differs from the paper: convolutions are padded by default, so that the output has the input's size; `padding: valid`
is the published form (the output is smaller by `margin` voxels a side) and `padding: mirror` is that form with the
mirrored border added inside, so that the output is whole. Dropout after the two deepest stages is the authors'
configuration (the paper gives no rate). The paper's loss weighs pixels between touching cells (equation 2); the loss is
the recipe's here. Volumes use 3D layers. A norm is an option; the paper has none.
Oracle: the sizes of the paper's figure 1 (572 -> 388) and a count by its layer list.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import DoubleConv, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.u_shape import UShape


class UNet(nn.Module):
    """U-Net on (B, in_channels, *S) -> logits (B, classes, *S).

    features: channels of the levels. norm: none (as published), batch, instance or group.
    padding: same, valid or mirror. dropout: rate after the two deepest encoder stages.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        norm: str = "none",
        padding: str = "same",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if padding not in ("same", "valid", "mirror"):
            raise ValueError(f"padding is {padding!r}; it is same, valid or mirror")
        self.padding = padding
        self.depth = len(features) - 1
        self.divisor = (2**self.depth if padding == "same" else 1,) * dims
        style = Style(norm)
        zeros = 1 if padding == "same" else 0
        self.body = UShape(
            dims, in_channels, features, lambda i, o: DoubleConv(dims, i, o, style, padding=zeros)
        )
        for stage in list(self.body.encoder)[-2:]:
            stage.append(nn.Dropout(dropout))
        self.head = nd.CONV[dims](features[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if self.padding == "mirror":
            x = nd.mirror_pad(x, [self.border(n) for n in size])
        logits = self.head(self.body(x))
        return _first(logits, size) if self.padding == "mirror" else logits

    def input_size(self, output: int) -> tuple[int, int]:
        """Smallest (input, output) of one axis in the unpadded form whose output is at least `output`."""
        while True:
            size: int | None = output
            for _ in range(self.depth):
                size = (size + 4) // 2 if size is not None and (size + 4) % 2 == 0 else None
            if size is not None:
                for _ in range(self.depth):
                    size = (size + 4) * 2
                return size + 4, output
            output += 1

    def border(self, length: int) -> tuple[int, int]:
        """Mirrored voxels before and after an axis that give an output of at least its length."""
        entered, left = self.input_size(length)
        before = (entered - left) // 2
        return before, entered - length - before

    @property
    def margin(self) -> int:
        """Voxels that the unpadded form loses on each side of an axis."""
        entered, left = self.input_size(1)
        return (entered - left) // 2 if self.padding == "valid" else 0


def _first(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` voxels of each axis."""
    for axis, length in enumerate(size, start=2):
        logits = logits.narrow(axis, 0, length)
    return logits
