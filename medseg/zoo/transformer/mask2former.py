"""Mask2Former, semantic form. Cheng, Misra, Schwing, Kirillov, Girdhar, CVPR 2022, arXiv:2112.01527.

Segmentation as a set: a hundred learned queries each give one class (or nothing) and one mask. A deformable
transformer refines the features of three scales; nine decoder layers then let each query read those features, scale by
scale, only where its mask of the layer before lies, which is what makes it converge. Every layer's set is matched to
the true masks and trained. Classes of a voxel are the queries' classes weighed by their masks.
Differs from the paper: ResNet backbones only (the paper's best have Swin); logits are logarithms of the summed class
scores, so that softmax gives their shares; voxels left out count in no mask, where the authors count them as outside.
No more points than voxels are compared; points beyond the border read its value, the authors' read zero. Overlapping classes are refused. In volumes position codes have three axes
and the rays of the deformable attention are spread over the sphere.
Oracle: deformable attention and position codes of the transformers library with equal weights; the published 44 M
with ResNet-50 and 150 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.deformable_attention import DeformableAttention, references
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.layers.mask_matching import set_loss, truths
from medseg.zoo.layers.positions import sine_positions
from medseg.zoo.outputs import Outputs


def layers_of(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    steps = [step for i, o in pairwise(widths) for step in (nn.Linear(i, o), nn.ReLU(inplace=True))]
    return nn.Sequential(*steps[:-1])


class EncoderLayer(nn.Module):
    """Tokens of all scales: x + deformable attention, norm, x + MLP, norm."""

    def __init__(self, dims: int, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dims, width, heads, levels=3)
        self.mlp = layers_of(width, inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, codes: Tensor, places: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        x = self.norm1(x + self.attention(x + codes, places, x, sizes))
        return self.norm2(x + self.mlp(x))


class PixelDecoder(nn.Module):
    """Features at strides 4 to 32 -> features for masks (B, width, *S/4), and three refined scales, coarsest first."""

    def __init__(
        self, dims: int, channels: Sequence[int], width: int, heads: int, layers: int, inner: int
    ) -> None:
        super().__init__()
        style, bare = Style("group", "relu"), Style("group", "none")
        biased = Style("group", "none", bias=True)
        self.enter = nn.ModuleList(ConvNormAct(dims, c, width, 1, biased) for c in reversed(channels[1:]))
        self.levels = nn.Parameter(torch.randn(3, width))
        self.layers = nn.ModuleList(EncoderLayer(dims, width, heads, inner) for _ in range(layers))
        self.lateral = ConvNormAct(dims, channels[0], width, 1, bare)
        self.smooth = ConvNormAct(dims, width, width, 3, style)
        self.masks = plain_conv(dims, width, width, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        scales = [enter(x) for enter, x in zip(self.enter, reversed(features[1:]), strict=True)]
        sizes = [tuple(x.shape[2:]) for x in scales]
        width, device = scales[0].shape[1], scales[0].device
        codes = [
            sine_positions(s, width, device).flatten(1).T + e for s, e in zip(sizes, self.levels, strict=True)
        ]
        tokens = torch.cat([x.flatten(2) for x in scales], dim=2).transpose(1, 2)
        places, code = references(sizes, device), torch.cat(codes)
        for layer in self.layers:
            tokens = layer(tokens, code, places, sizes)
        parts = tokens.transpose(1, 2).split([x[0, 0].numel() for x in scales], dim=2)
        scales = [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        fine = self.lateral(features[0])
        return self.masks(self.smooth(fine + nd.resize(scales[-1], fine.shape[2:]))), scales


class DecoderLayer(nn.Module):
    """Queries read a scale where their masks lie, then each other, then an MLP; a norm after each."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.read = nn.MultiheadAttention(width, heads, batch_first=True)
        self.talk = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = layers_of(width, inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, names: Tensor, source: Tensor, codes: Tensor, hidden: Tensor) -> Tensor:
        """hidden (B, Q, N) bool: places that a query may not read."""
        closed = hidden.repeat_interleave(self.read.num_heads, dim=0)
        found, _ = self.read(x + names, source + codes, source, attn_mask=closed, need_weights=False)
        x = self.norms[0](x + found)
        found, _ = self.talk(x + names, x + names, x, need_weights=False)
        x = self.norms[1](x + found)
        return self.norms[2](x + self.mlp(x))


def hidden_places(masks: Tensor, size: Sequence[int]) -> Tensor:
    """(B, Q, N) bool: where a mask, as logits (B, Q, *s), is below one half; nowhere if that were everywhere."""
    hidden = nd.resize(masks.detach(), size).flatten(2) < 0
    return hidden & ~hidden.all(dim=2, keepdim=True)


class Mask2Former(nn.Module):
    """Mask2Former on (B, in_channels, *S) -> logits (B, classes, *S).

    width, heads, queries: of both transformers. layers: of the pixel decoder and of the query decoder. inner: widths
    of their MLPs.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet50",
        width: int = 256,
        heads: int = 8,
        queries: int = 100,
        layers: Sequence[int] = (6, 9),
        inner: Sequence[int] = (1024, 2048),
    ) -> None:
        super().__init__()
        self.divisor, self.dims = (32,) * dims, dims
        self.encoder = make_resnet(backbone, dims, in_channels)
        self.pixels = PixelDecoder(dims, self.encoder.channels, width, heads, layers[0], inner[0])
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.names = nn.Parameter(torch.randn(queries, width))
        self.levels = nn.Parameter(torch.randn(3, width))
        self.layers = nn.ModuleList(DecoderLayer(width, heads, inner[1]) for _ in range(layers[1]))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes + 1)
        self.mask = layers_of(width, width, width, width)

    def predict(self, x: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Classes (B, Q, K + 1) and masks (B, Q, *S/4) of the queries as they are, as logits."""
        x = self.norm(x)
        return self.classify(x), torch.einsum("bqc,bcn->bqn", self.mask(x), fine.flatten(2)).unflatten(
            2, tuple(fine.shape[2:])
        )

    def decode(self, fine: Tensor, scales: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Classes and masks before the first layer and after each."""
        sizes = [tuple(s.shape[2:]) for s in scales]
        codes = [sine_positions(s, fine.shape[1], fine.device).flatten(1).T for s in sizes]
        sources = [s.flatten(2).transpose(1, 2) + e for s, e in zip(scales, self.levels, strict=True)]
        x = self.queries.expand(len(fine), -1, -1)
        classes, masks = ([found] for found in self.predict(x, fine))
        for number, layer in enumerate(self.layers):
            level = number % 3
            x = layer(x, self.names, sources[level], codes[level], hidden_places(masks[-1], sizes[level]))
            found, mask = self.predict(x, fine)
            classes.append(found)
            masks.append(mask)
        return classes, masks

    def forward(self, x: Tensor) -> Tensor | Outputs:
        classes, masks = self.decode(*self.pixels(self.encoder(x)))
        shares = classes[-1].float().softmax(dim=2)[:, :, :-1]
        inside = nd.resize(masks[-1].float(), x.shape[2:]).sigmoid()
        logits = torch.einsum("bqk,bq...->bk...", shares, inside).clamp_min(1e-6).log()
        if not self.training:
            return logits
        return Outputs(logits, extras={"classes": torch.stack(classes), "masks": torch.stack(masks)})

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """The set loss of every layer, summed. targets: (B, *S) class positions, 255 left out."""
        if targets.ndim == self.dims + 2:
            raise UserError(
                "the semantic form of mask2former gives each voxel one class, but the classes overlap",
                "system.name",
                "choose a system that is trained by the pipeline's loss, or give classes that exclude each other",
            )
        truth = truths(*label_masks(targets, outputs.main.shape[1], self.dims))
        pairs = zip(outputs.extras["classes"], outputs.extras["masks"], strict=True)
        return torch.stack([set_loss(classes, masks, truth) for classes, masks in pairs]).sum()
