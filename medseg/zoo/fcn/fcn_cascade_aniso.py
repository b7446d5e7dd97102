"""Cascaded anisotropic networks. Wang, Li, Ourselin, Vercauteren, BrainLes 2017, arXiv:1709.00382.

Nested regions (whole tumour, its core, the enhancing part) are found one after the other by binary networks, each in
the box around the region before, which keeps false positives out. Volumes with thick slices are read by 3x3x1
residual blocks of large in-plane dilation and four 1x1x3 layers, wide in the slice and 9 slices deep; predictions of
three scales are fused. Three sets of networks, one a view, have their probabilities averaged.
Differs from the paper: slices are padded, where the authors' 1x1x3 layers shorten the stack by 8. One network holds all
nine: each is trained on the patch at hand, in the box around its true outer region, and the boxes of prediction are
used in eval mode only, where also patches without the outer region end. K exclusive classes are K - 1 nested regions
(label 1 outermost), probabilities multiplied down the cascade; `nested` gives one channel a region. Batch norm uses
running statistics in eval mode, the authors' that of the batch. Memory: in training the nine networks are run again
for their gradients (`checkpoint`) instead of kept, so that one at a time fills the memory.
Oracle: none kept; counted by the layer list of the authors' code. 3D only: it is about slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from medseg.zoo.fcn.anisotropic import MSNet, box_of, dice_distance
from medseg.zoo.outputs import Outputs

IGNORED = 255
"""Label of voxels that count nowhere."""
MARGIN = 5
"""Voxels around a region's box, as in the authors' settings."""
NEVER = -12.0
"""Logit of a region outside the box it is looked for in."""


class AnisotropicCascade(nn.Module):
    """On (B, in_channels, X, Y, Z) -> logits (B, classes, X, Y, Z).

    nested: channels are nested regions, outermost first, instead of exclusive classes with background. widths: channels
    of the four parts of each network. views: the axes that count as slices, one set of networks each. checkpoint: run a
    network again for its gradients instead of keeping its features.
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (32, 32, 32, 32),
        views: Sequence[int] = (2, 0, 1),
        nested: bool = False,
        checkpoint: bool = True,
    ) -> None:
        super().__init__()
        regions = classes if nested else classes - 1
        if dims != 3 or regions < 1:
            raise ValueError(f"{dims}D and {regions} regions; it takes volumes with at least one region")
        if not views or not set(views) <= {0, 1, 2}:
            raise ValueError(f"views is {list(views)}; it names axes 0, 1, 2")
        self.divisor = (4, 4, 4)
        self.nested, self.views, self.checkpoint, self.around = nested, tuple(views), checkpoint, MARGIN
        self.regions = nn.ModuleList(
            nn.ModuleList(MSNet(in_channels, widths, twice=level < 2) for _ in self.views)
            for level in range(regions)
        )

    def view_logits(self, level: int, x: Tensor) -> list[Tensor]:
        """Logit of one region in each view: (B, X, Y, Z) each."""
        found = []
        for axis, net in zip(self.views, self.regions[level], strict=True):
            turned = x.movedim(axis + 2, 2)
            again = self.checkpoint and self.training and torch.is_grad_enabled()
            logits = checkpointed(net, turned, use_reentrant=False) if again else net(turned)
            found.append(logits.movedim(1, axis + 1))
        return found

    def joined(self, regions: Sequence[Tensor]) -> Tensor:
        """Logits of each region inside the one before -> (B, classes, X, Y, Z)."""
        inside = torch.cumsum(torch.stack([F.logsigmoid(r.float()) for r in regions], dim=1), dim=1)
        if self.nested:
            return inside - torch.log1p(-inside.exp().clamp(max=1 - 1e-6))
        outer = torch.cat([torch.zeros_like(inside[:, :1]), inside], dim=1)
        leaves = torch.stack([F.logsigmoid(-r.float()) for r in regions], dim=1)
        return torch.cat([outer[:, :-1] + leaves, inside[:, -1:]], dim=1)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        if not self.training:
            return self.joined(
                [torch.cat(level) for level in zip(*map(self.narrowed, x.split(1)), strict=True)]
            )
        views = [self.view_logits(level, x) for level in range(len(self.regions))]
        extras = {f"region{i}_view{j}": v for i, level in enumerate(views) for j, v in enumerate(level)}
        return Outputs(self.joined([averaged(level) for level in views]), extras=extras)

    def narrowed(self, x: Tensor) -> list[Tensor]:
        """One image, each region looked for in the box of the one before: logits (1, X, Y, Z) a region."""
        found: list[Tensor] = []
        box: tuple[slice, ...] | None = tuple(slice(0, n) for n in x.shape[2:])
        for level in range(len(self.regions)):
            whole = x.new_full((1, *x.shape[2:]), NEVER)
            if box is not None:
                logits = averaged(self.view_logits(level, x[(..., *box)]))
                whole = whole.to(logits.dtype)
                whole[(..., *box)] = logits
                box = box_of(whole[0] > 0, self.around, self.divisor)
            found.append(whole)
        return found

    def loss(self, outputs: Outputs, target: Tensor) -> Tensor:
        """Sum over regions of the mean Dice distance of the views, inside the box of the true outer region.

        target: class numbers (B, X, Y, Z), or (B, R, X, Y, Z) of nested regions; 255 counts nowhere.
        """
        total = outputs.main.new_zeros(())
        known = target != IGNORED
        for level, nets in enumerate(self.regions):
            truth = target[:, level] == 1 if self.nested else (target > level) & known
            counts = known[:, level] if self.nested else known
            if level:
                outer = target[:, level - 1] == 1 if self.nested else (target > level - 1) & known
                counts = counts & self.surrounds(outer)
            views = [outputs.extras[f"region{level}_view{j}"] for j in range(len(nets))]
            total = total + sum(dice_distance(v, truth, counts) for v in views) / len(views)
        return total

    def surrounds(self, outer: Tensor) -> Tensor:
        """(B, X, Y, Z) bool: what lies in the box of each image's region; where it has none, everything."""
        inside = torch.zeros_like(outer)
        for image, region in zip(inside, outer, strict=True):
            image[box_of(region, self.around, self.divisor) or ...] = True
        return inside


def averaged(views: Sequence[Tensor]) -> Tensor:
    """The logit of the mean probability."""
    if len(views) == 1:
        return views[0]
    return torch.logit(torch.stack([v.float().sigmoid() for v in views]).mean(dim=0), eps=1e-6)
