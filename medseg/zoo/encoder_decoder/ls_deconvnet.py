"""LS-DeconvNet. Cheng, Cai, Li, Zhao, Huang, CVPR 2017, doi:10.1109/CVPR.2017.161.

Deconvolution networks mix what lies on both sides of a border. Here unpooling and an average pooling after each
deconvolution look at the raw colours and depths: a voxel takes from the coarse or neighbouring voxels in the measure
in which it resembles them, so that borders of the image stay borders. Colour and depth have a network each; a gate
decides for every voxel and class how much each of the two counts.
Differs from the paper: depth is the last channel(s) of the one input; an image of a single channel goes to both
networks. Networks and gate are trained at once. In volumes the window of the affinities is a voxel and its six
neighbours, in place of the 3x3 of planes.
Not confirmed (the paper itself could not be read): the form of the affinity, here exp(-d^2 / 2 sigma^2) of the mean
squared difference d^2 of channels in units of their standard deviation, with sigma 0.5; one unpooling, deconvolution
and pooling a level; how far the network below shrinks the image (`output_stride`); a 3x3 gate; equal weights of both
networks' own losses.
Oracle: none kept; the affinity-weighted means by their equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from medseg.zoo.encoder_decoder.deconvnet import Deconv
from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.edges import shifted
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.outputs import Outputs

SIGMA = 0.5


def window(dims: int) -> list[tuple[int, ...]]:
    """Offsets whose voxels are compared: 3x3 in a plane, the voxel and its six neighbours in a volume."""
    around = product((-1, 0, 1), repeat=dims)
    return [o for o in around if dims == 2 or sum(map(abs, o)) <= 1]


def log_affinity(one: Tensor, other: Tensor) -> Tensor:
    """-d^2 / 2 sigma^2 of the cues of two sets of voxels, at most 0: (B, C, *S) twice -> (B, 1, *S)."""
    return -(one - other).square().mean(dim=1, keepdim=True) / (2 * SIGMA**2)


def affinity(one: Tensor, other: Tensor) -> Tensor:
    """How alike the cues of two sets of voxels are, 0..1: (B, C, *S) twice -> (B, 1, *S)."""
    return torch.exp(log_affinity(one, other))


def local_pool(x: Tensor, cues: Tensor) -> Tensor:
    """Locality-sensitive average pooling: each voxel's mean over its window, weighed by affinity. Keeps the size."""
    total, weights = torch.zeros_like(x), torch.zeros_like(cues[:, :1])
    for offset in window(x.ndim - 2):
        alike = affinity(cues, shifted(cues, offset))
        total, weights = total + alike * shifted(x, offset), weights + alike
    return total / weights


def local_unpool(x: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """Locality-sensitive unpooling: (B, C, *s) -> (B, C, *(2 s)).

    A fine voxel takes the mean of the coarse voxels around the one it lies in, weighed by the affinity of its cues
    to theirs. coarse, fine: cues on both grids. A voxel that resembles none takes from those that it differs least from.
    """
    size, offsets = fine.shape[2:], window(x.ndim - 2)
    alike = [log_affinity(fine, nd.resize(shifted(coarse, o), size, "nearest")) for o in offsets]
    shares = torch.softmax(torch.stack(alike), dim=0)
    parts = (nd.resize(shifted(x, o), size, "nearest") for o in offsets)
    return sum(share * part for share, part in zip(shares, parts, strict=True))


def cues_of(image: Tensor, levels: int) -> list[Tensor]:
    """The image in units of each channel's standard deviation, and its means over 2, 4, ... voxels, finest first."""
    flat = image.flatten(2)
    spread = flat.std(dim=2).clamp_min(1e-6)[(...,) + (None,) * (image.ndim - 2)]
    pool = nd.AVG_POOL[image.ndim - 2](2)
    pyramid = [image / spread]
    for _ in range(levels):
        pyramid.append(pool(pyramid[-1]))
    return pyramid


class Stream(nn.Module):
    """One modality's network: VGG-16 down, locality-sensitive steps up. (B, C, *S), cues -> scores (B, K, *S)."""

    def __init__(
        self, dims: int, inputs: int, classes: int, widths: Sequence[int], output_stride: int
    ) -> None:
        super().__init__()
        self.encoder = VGG(dims, inputs, widths, VGG16, norm="batch", output_stride=output_stride)
        # One step up for each halving, to the channels that the stage of the next finer resolution has.
        halvings = len({1, *self.encoder.strides}) - 1
        outputs = [*reversed(widths[: halvings - 1]), widths[0]]
        self.deconvs = nn.ModuleList(
            Deconv(dims, a, b) for a, b in zip([widths[-1], *outputs], outputs, strict=False)
        )
        self.classify = plain_conv(dims, widths[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor, cues: Sequence[Tensor]) -> Tensor:
        x = self.encoder(x)[-1]
        for level, deconv in zip(reversed(range(len(self.deconvs))), self.deconvs, strict=True):
            x = deconv(local_unpool(x, cues[level + 1], cues[level]))
            x = local_pool(x if level else self.classify(x), cues[level])
        return x


class LSDeconvNet(nn.Module):
    """LS-DeconvNet on (B, in_channels, *S) -> logits (B, classes, *S).

    depth_channels: the last channels of the image, which go to the second network. widths: channels of VGG's stages.
    output_stride: of VGG, 32, 16 or 8; below 32 its last poolings do not shrink and what follows is dilated.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        depth_channels: int = 1,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if in_channels > 1 and not 0 < depth_channels < in_channels:
            raise ValueError(f"depth_channels is {depth_channels} of {in_channels}; one is left for colour")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; it is 8, 16 or 32")
        self.divisor = (output_stride,) * dims
        self.depth_channels = depth_channels if in_channels > 1 else 0
        colours, depths = in_channels - self.depth_channels, max(self.depth_channels, 1)
        self.colour = Stream(dims, colours, classes, widths, output_stride)
        self.depth = Stream(dims, depths, classes, widths, output_stride)
        self.gate = nn.Sequential(plain_conv(dims, 2 * classes, classes, 3), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor | Outputs:
        colours = x.shape[1] - self.depth_channels
        cues = cues_of(x, len(self.colour.deconvs))
        one = self.colour(x[:, :colours], cues)
        two = self.depth(x[:, colours:] if self.depth_channels else x, cues)
        gate = self.gate(torch.cat([one, two], dim=1))
        fused = gate * one + (1 - gate) * two
        return Outputs(fused, (one, two), (1.0, 1.0)) if self.training else fused
