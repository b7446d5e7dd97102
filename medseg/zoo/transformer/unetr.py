"""UNETR. Hatamizadeh, Tang, Nath, Yang, Myronenko, Landman, Roth, Xu, WACV 2022, arXiv:2103.10504.

A plain vision transformer reads patches of 16x16x16 voxels, all of which attend to all from the first layer on; its
tokens after a quarter, half, three quarters and all of its 12 layers are upsampled to four resolutions and joined by a
convolutional decoder as in a U-Net, whose finest skip comes from the image itself.
Differs from the paper: MONAI taps the layers 4, 7 and 10 (3, 6 and 9 counted from 0); images of another size than
`image` get interpolated position codes instead of being refused. Attention is quadratic in the number of patches: 216
of them in 96^3.
Oracle: it is MONAI 1.6 UNETR, adapted, without 12 norms that it has and never uses; equal outputs at the size it is built
for. 92.78 M weights with 14 classes, where table 5 of the paper has 92.58 M.
"""

from __future__ import annotations

from torch import Tensor, nn

from medseg.zoo.layers import nd


class UNETR(nn.Module):
    """MONAI's UNETR on (B, in_channels, *S) -> logits (B, classes, *S).

    image: voxels along each axis for which position codes are learned. width: channels of the finest stage. hidden,
    heads, mlp: of the transformer.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        image: int = 96,
        width: int = 16,
        hidden: int = 768,
        heads: int = 12,
    ) -> None:
        super().__init__()
        from monai.networks.nets import UNETR as Adapted

        if image < 16 or image % 16:
            raise ValueError(f"image is {image}; it is a multiple of 16")
        self.divisor = (16,) * dims
        self.grid = (image // 16,) * dims
        self.net = Adapted(in_channels, classes, image, width, hidden, 4 * hidden, heads, spatial_dims=dims)
        for block in self.net.vit.blocks:
            block.norm_cross_attn = nn.Identity()  # a layer for cross-attention, which UNETR has not

    def tokens(self, x: Tensor) -> list[Tensor]:
        """Four maps (B, hidden, *S/16), shallowest first."""
        embedding = self.net.vit.patch_embedding
        patches = embedding.patch_embeddings(x)
        size = patches.shape[2:]
        codes = embedding.position_embeddings.transpose(1, 2).unflatten(2, self.grid)
        tokens = (patches + nd.resize(codes, size)).flatten(2).transpose(1, 2)
        maps = []
        for number, block in enumerate(self.net.vit.blocks, start=1):
            tokens = block(tokens)
            if number in (4, 7, 10):
                maps.append(tokens)
        maps.append(self.net.vit.norm(tokens))
        return [m.transpose(1, 2).unflatten(2, size) for m in maps]

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        third, sixth, ninth, last = self.tokens(x)
        y = net.decoder5(last, net.encoder4(ninth))
        y = net.decoder4(y, net.encoder3(sixth))
        y = net.decoder3(y, net.encoder2(third))
        return net.out(net.decoder2(y, net.encoder1(x)))
