"""LRR, Laplacian pyramid reconstruction and refinement. Ghiasi, Fowlkes, ECCV 2016, arXiv:1605.02264.

Coarse features know more than one score a position: at each level a convolution predicts coefficients of ten shapes a
class, whose overlapping sum gives scores four times finer. From coarse to fine each level adds its reconstruction as
the residual of a Laplacian pyramid, but only where the coarser scores are in doubt: multiplied by the range of each
class's probability within nine positions, which is near 0 inside objects and 1 at their borders.
Differs from the paper: built after the authors' MatConvNet code, sub-models 32x, 16x, 8x and 4x trained together where
the code adds one after the other. The shapes are principal components of half spaces until `set_bases` is given those
of training labels (`class_bases`, both called from Python), fixed in either case. Thickening and thinning in the extra
loss on the coarsest level are by a cube, not a ball. In volumes the layers for fully connected ones have 3x3x3 kernels
and 1024 channels. Coefficients start from small random weights, the authors' from 0; the two outputs of the extra loss
have no bias of their own beside that of their coefficients.
Oracle: none kept; reconstruction and mask by their definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.outputs import Outputs

STEP = 4
"""How much finer than its features a level reconstructs; shapes are twice as wide."""
BORDER = 9
"""Window, in positions of the finer grid, in which a class's probability must vary for the residual to count."""
THICKNESS = 4
"""By how many positions of the coarsest scores (8 voxels each) labels are thickened and thinned."""


class Reconstruction(nn.Module):
    """Features (B, C, *s) -> scores (B, K, *(4 s)) by 5x5 coefficients and overlapping shapes (K bases, 1, 8, ...)."""

    def __init__(self, dims: int, inputs: int, classes: int, bases: int) -> None:
        super().__init__()
        self.classes = classes
        self.coefficients = plain_conv(dims, inputs, classes * bases, 5)
        nn.init.normal_(self.coefficients.weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.coefficients.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, shapes: Tensor) -> Tensor:
        coefficients = self.coefficients(x)
        transposed = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
        shapes = shapes.to(coefficients.dtype)
        return transposed(coefficients, shapes, stride=STEP, padding=STEP // 2, groups=self.classes)


def border_mask(scores: Tensor) -> Tensor:
    """Range of each class's probability within a window of 9 positions an axis, (B, K, *s) in 0..1."""
    probabilities = torch.softmax(scores, dim=1)
    pool = nd.MAX_POOL[scores.ndim - 2](BORDER, 1, BORDER // 2)
    return pool(probabilities) + pool(-probabilities)


class LRR(nn.Module):
    """LRR-4x on (B, in_channels, *S) -> logits (B, classes, *S).

    bases: shapes a class. fc_channels, fc_kernel: the layers that stand for fully connected ones (None: 4096 and 7 in
    planes, 1024 and 3 in volumes).
    """

    shapes: Tensor

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        bases: int = 10,
        widths: Sequence[int] = WIDTHS,
        fc_channels: int | None = None,
        fc_kernel: int | None = None,
    ) -> None:
        super().__init__()
        self.divisor, self.dims, self.classes, self.bases = (32,) * dims, dims, classes, bases
        hidden = fc_channels or (4096 if dims == 2 else 1024)
        kernel = fc_kernel or (7 if dims == 2 else 3)
        self.encoder = VGG(dims, in_channels, widths, VGG16)
        layers: list[nn.Module] = []
        for inputs, size in ((widths[-1], kernel), (hidden, 1)):
            layers += [plain_conv(dims, inputs, hidden, size), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        self.fc = nn.Sequential(*layers)
        kaiming(self)
        sources = (hidden, widths[4], widths[3], widths[2])
        self.levels = nn.ModuleList(Reconstruction(dims, s, classes, bases) for s in sources)
        self.thick, self.thin = (Reconstruction(dims, hidden, classes, bases) for _ in range(2))
        self.register_buffer(
            "shapes", torch.from_numpy(half_space_bases(dims, bases)).repeat(classes, *(1,) * (dims + 1))
        )

    def set_bases(self, shapes: Tensor) -> None:
        """Replaces the shapes by (classes * bases, 1, 8, ...), for example those of `class_bases`."""
        if shapes.shape != self.shapes.shape:
            raise ValueError(
                f"shapes are {tuple(shapes.shape)}; this network takes {tuple(self.shapes.shape)}"
            )
        self.shapes.copy_(shapes)

    def features(self, x: Tensor) -> list[Tensor]:
        """fc7, conv5_3, conv4_3 and conv3_3 (before their pooling): strides 32, 16, 8 and 4."""
        found: list[Tensor] = []
        for stage, pool in zip(self.encoder.stages, self.encoder.pools, strict=True):
            x = stage(x)
            found.insert(0, x)
            x = pool(x)
        return [self.fc(x), *found[:3]]

    def forward(self, x: Tensor) -> Tensor | Outputs:
        features = self.features(x)
        scores = [self.levels[0](features[0], self.shapes)]
        for level, feature in zip(self.levels[1:], features[1:], strict=True):
            residual = level(feature, self.shapes)
            coarse = nd.resize(scores[0], residual.shape[2:])
            scores.insert(0, coarse + border_mask(coarse) * residual)
        if not self.training:
            return scores[0]
        extras = {name: getattr(self, name)(features[0], self.shapes) for name in ("thick", "thin")}
        return Outputs(scores[0], tuple(scores[1:]), (1.0, 1.0, 1.0), extras)

    def training_step(self, images: Tensor, targets: Tensor, objective: Callable[..., Any]) -> Tensor:
        """The recipe's loss on every level, and one of thickened and thinned classes on the coarsest."""
        outputs = self(images)
        loss: Tensor = objective(outputs, targets)
        masks, counts = label_masks(targets, self.classes, self.dims)
        size = outputs.extras["thick"].shape[2:]
        masks, known = nd.resize(masks, size), nd.resize(counts.float(), size, "nearest")
        pool = nd.MAX_POOL[self.dims](2 * THICKNESS + 1, 1, THICKNESS)
        for name, truth in (("thick", pool(masks)), ("thin", -pool(-masks))):
            each = F.binary_cross_entropy_with_logits(outputs.extras[name].float(), truth, reduction="none")
            loss = loss + (each * known).sum() / (known.sum() * self.classes).clamp_min(1)
        return loss


@cache
def half_space_bases(dims: int, count: int, samples: int = 1000) -> np.ndarray:
    """The first principal components (count, 1, 8, ...) of half spaces of any direction that cut a patch."""
    side = 2 * STEP
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * dims, indexing="ij")).reshape(dims, -1)
    normals = random.normal(size=(samples, dims))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    patches = (normals @ grid > random.uniform(-side / 2, side / 2, (samples, 1))).astype(np.float64)
    return _components(patches, count).reshape(count, 1, *(side,) * dims)


def class_bases(
    labels: Tensor, classes: int, count: int = 10, patch: int = 32, samples: int = 1000
) -> Tensor:
    """Shapes of training labels: principal components of each class's masks in random patches, (classes * count, 1,
    8, ...), as the authors take them. labels: (B, *S) class positions; patches hold 2 % of the class or more. A class
    that is in too few patches keeps the shapes of half spaces."""
    dims, random, found = labels.ndim - 1, np.random.default_rng(0), []
    array = labels.cpu().numpy()
    patch = min(patch, *array.shape[1:])
    starts = [
        (int(random.integers(len(array))), *(int(random.integers(n - patch + 1)) for n in array.shape[1:]))
        for _ in range(samples)
    ]
    patches = [array[(i, *(slice(s, s + patch) for s in corner))] for i, *corner in starts]
    for k in range(classes):
        masks = np.stack([p == k for p in patches]).reshape(samples, -1)
        masks = masks[masks.mean(axis=1) >= 0.02]
        bases = half_space_bases(dims, count)
        if len(masks) > 2 * count:
            wide = torch.from_numpy(_components(masks.astype(np.float64), count)).reshape(
                count, 1, *(patch,) * dims
            )
            bases = nd.resize(wide, (2 * STEP,) * dims).numpy()
        found.append(torch.from_numpy(bases))
    return torch.cat(found)


def _components(patches: np.ndarray, count: int) -> np.ndarray:
    """Leading right singular vectors of the centred rows times the root of their values; the first peaks at 1."""
    _, values, vectors = np.linalg.svd(patches - patches.mean(axis=0), full_matrices=False)
    bases = np.sqrt(values[:count, None]) * vectors[:count]
    return (bases / np.abs(bases[0]).max()).astype(np.float32)
