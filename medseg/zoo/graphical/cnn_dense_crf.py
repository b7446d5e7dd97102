"""CNN with a dense CRF. Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015, arXiv:1412.7062 (DeepLab-CRF).

A network's scores are smooth and poorly localised; a fully connected conditional random field after it recovers the
edges. DeepLab-LargeFOV is trained alone; at test its log-probabilities are the unary terms of a Potts field with a
spatial and a bilateral kernel, solved by ten steps of mean field. The bilateral weight and widths are found by a
coarse-to-fine search on a few cases after training (`search_crf`), the spatial ones are fixed at 3 and 3.
Differs from the paper: the starting values 4, 49 and 5 are those of the authors' script for this network, of which a
copy was read. The search is three values an axis, then three around the best; the paper does not say its steps. It is
called from Python: a run keeps the values that its arguments give.
`grey_levels` says how many of 256 grey levels 1.0 in the standardised input is. The network differs as deeplab-v1.
Oracle: the exact filter; counted by its layers, 20.5 M with 21 classes (the field adds none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from medseg.zoo.dilated.deeplab_v1 import DeepLabV1
from medseg.zoo.encoders.vgg import WIDTHS
from medseg.zoo.layers.dense_crf import GREY_LEVELS, Kernels, Potts, potts_mean_field

RANGES = ((5.0, 10.0), (50.0, 100.0), (3.0, 10.0))
"""Where the paper searches: bilateral weight, theta_alpha in pixels, theta_beta in grey levels."""


class CNNDenseCRF(DeepLabV1):
    """DeepLab-LargeFOV on (B, in_channels, *S) -> logits (B, classes, *S); in eval mode sharpened by a dense CRF.

    weights: of the bilateral and the spatial kernel. theta: widths alpha, beta, gamma: of the bilateral kernel in
    voxels and in grey levels of 256, of the spatial one in voxels. What a search found is saved with the weights.
    """

    bilateral: Tensor

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
        weights: Sequence[float] = (4.0, 3.0),
        theta: Sequence[float] = (49.0, 5.0, 3.0),
        grey_levels: float = GREY_LEVELS,
        iterations: int = 10,
    ) -> None:
        super().__init__(dims, in_channels, classes, widths, hidden)
        self.fixed = Potts(weights[0], weights[1], Kernels.of(theta, grey_levels), iterations)
        self.register_buffer("bilateral", torch.tensor([weights[0], *theta[:2]]))

    def potts(self, values: Sequence[float] | None = None) -> Potts:
        """The field with (weight, theta_alpha, theta_beta), by default those found or given."""
        weight, alpha, beta = self.bilateral.tolist() if values is None else values
        old = self.fixed
        kernels = replace(old.kernels, theta_alpha=alpha, theta_beta=beta)
        return replace(old, bilateral_weight=weight, kernels=kernels)

    def unary(self, x: Tensor) -> Tensor:
        """Log-probabilities of the network alone, (B, classes, *S)."""
        scores = super().forward(x)
        assert isinstance(scores, Tensor)
        return torch.log_softmax(scores.float(), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            scores = super().forward(x)
            assert isinstance(scores, Tensor)
            return scores
        return potts_mean_field(self.unary(x), x, self.potts())

    @torch.no_grad()
    def search_crf(
        self,
        images: Tensor,
        labels: Tensor,
        ranges: Sequence[tuple[float, float]] = RANGES,
        rounds: int = 2,
    ) -> float:
        """Finds weight and widths of the bilateral kernel by mean IoU on (B, C, *S) images with (B, *S) labels.

        Each round tries three values an axis, the next around the best in half the range. Keeps the best, returns its
        mean IoU. Values given at the start are kept if none is better.
        """
        was_training = self.training
        self.eval()
        unary = self.unary(images)
        best = _mean_iou(potts_mean_field(unary, images, self.potts()), labels)
        spans = [high - low for low, high in ranges]
        centres = [(low + high) / 2 for low, high in ranges]
        for _ in range(rounds):
            grid = [(c - s / 2, c, c + s / 2) for c, s in zip(centres, spans, strict=True)]
            for values in product(*grid):
                score = _mean_iou(potts_mean_field(unary, images, self.potts(values)), labels)
                if score > best:
                    best, centres = score, list(values)
                    self.bilateral.copy_(torch.tensor(values))
            spans = [s / 2 for s in spans]
        self.train(was_training)
        return best


def _mean_iou(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes present in either of intersection over union."""
    found = scores.argmax(dim=1)
    values = []
    for k in range(scores.shape[1]):
        union = ((found == k) | (labels == k)).sum()
        if union > 0:
            values.append(float(((found == k) & (labels == k)).sum() / union))
    return sum(values) / len(values)
