"""Mix Transformer. Xie et al., NeurIPS 2021, arXiv:2105.15203: a pyramid of transformer stages.

Differs from the paper: n-D (3D patches, depth-wise 3D convolutions, reduction along three axes).
Oracle: the counts of SegFormer-B0 to B5 in the transformers library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv


@dataclass(frozen=True)
class Mix:
    """widths and depths of the four stages; heads, and the factor by which keys are shrunk along each axis."""

    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 6, 40, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    shrink: tuple[int, ...] = (8, 4, 2, 1)


MIXES = {
    "b0": Mix((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": Mix(depths=(2, 2, 2, 2)),
    "b2": Mix(depths=(3, 4, 6, 3)),
    "b3": Mix(depths=(3, 4, 18, 3)),
    "b4": Mix(depths=(3, 8, 27, 3)),
    "b5": Mix(),
    "small": Mix((16, 32, 80, 128), (1, 1, 2, 1)),
    "tiny": Mix((4, 8, 10, 16), (1, 1, 1, 1)),
}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, *s)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from the map shrunk by a strided convolution (equation 1, 2)."""

    def __init__(self, dims: int, width: int, heads: int, shrink: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.reduce = nd.CONV[dims](width, width, shrink, shrink) if shrink > 1 else None
        self.norm = nn.LayerNorm(width) if shrink > 1 else None
        self.shrink = shrink

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        source = tokens
        if self.reduce is not None and self.norm is not None:
            source = self.norm(self.reduce(self.padded(x)).flatten(2).transpose(1, 2))
        query, key, value = (
            f(t).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f, t in ((self.query, tokens), (self.key, source), (self.value, source))
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.out(mixed).transpose(1, 2).reshape(x.shape)

    def padded(self, x: Tensor) -> Tensor:
        """Zeros at the end, so that small maps hold at least one cell."""
        missing = [(-n) % self.shrink if n < self.shrink else 0 for n in x.shape[2:]]
        return F.pad(x, [m for n in reversed(missing) for m in (0, n)]) if any(missing) else x


class MixBlock(nn.Module):
    """x + attention, then x + MLP with a depth-wise 3x3 inside (Mix-FFN, equation 3): position by zero padding."""

    def __init__(self, dims: int, width: int, heads: int, shrink: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.attention = EfficientAttention(dims, width, heads, shrink)
        self.mlp = nn.Sequential(
            plain_conv(dims, width, 4 * width, 1),
            plain_conv(dims, 4 * width, 4 * width, 3, groups=4 * width),
            nn.GELU(),
            plain_conv(dims, 4 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MixTransformer(nn.Module):
    """forward: (B, C, *S) -> features of four stages at strides 4, 8, 16, 32."""

    def __init__(self, dims: int, in_channels: int, mix: Mix) -> None:
        super().__init__()
        self.channels: Sequence[int] = mix.widths
        self.strides = (4, 8, 16, 32)
        self.embed, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = in_channels
        for i, width in enumerate(mix.widths):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            patch = nd.CONV[dims](inputs, width, kernel, stride, padding=kernel // 2)
            self.embed.append(nn.Sequential(patch, ChannelNorm(width)))
            blocks = (MixBlock(dims, width, mix.heads[i], mix.shrink[i]) for _ in range(mix.depths[i]))
            self.stages.append(nn.Sequential(*blocks))
            self.norms.append(ChannelNorm(width))
            inputs = width
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for embed, stage, norm in zip(self.embed, self.stages, self.norms, strict=True):
            x = norm(stage(embed(x)))
            features.append(x)
        return features
