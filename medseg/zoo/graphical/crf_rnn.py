"""CRF-RNN. Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr, ICCV 2015, arXiv:1502.03240.

Mean field in a dense conditional random field is a recurrent network: softmax, filtering by a spatial and a bilateral
Gaussian, a weighting of the filters, a compatibility transform between classes and the addition of the unary scores
make one step, repeated with the same weights. Stacked on an FCN-8s it is trained with it end to end: five steps while
training, ten at test, from weights 5 (bilateral) and 3 (spatial) and Potts compatibilities.
Differs from the paper: the bilateral filter is exact on small grids. Kernel widths are in voxels and grey levels of
256; `grey_levels` says how many of those 1.0 in the input is, as inputs are standardised here. FCN-8s is this zoo's,
with its own differences. The paper trains in two stages, the FCN-8s alone, then both at a learning rate of 1e-13 without
normalisation and with rates of their own for the field's matrices. Here both are trained at once, and the FCN-8s's
scores have a loss of their own (`unary_loss`), without which the field of an untrained FCN sees one class everywhere
and stays there; `iterations: [0, 0]` and `unary_loss: 0` are the paper's stages. A window of a volume is one field.
Oracle: none that runs without a compiled filter; one step by its equations, and the exact filter.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.vgg import WIDTHS
from medseg.zoo.fcn.fcn import FCN
from medseg.zoo.layers.dense_crf import GREY_LEVELS, DenseCRF, Kernels
from medseg.zoo.outputs import Outputs


class CRFRNN(nn.Module):
    """CRF-RNN on (B, in_channels, *S) -> logits (B, classes, *S), whose softmax is the field's marginals.

    theta: widths alpha, beta, gamma: of the bilateral kernel in voxels and in grey levels of 256, of the spatial one in
    voxels. iterations: steps of mean field in training and in eval mode; with 0 the FCN-8s is alone. unary_loss: weight
    of the loss on the FCN-8s's scores beside that on the marginals. widths, fc_channels, fc_kernel: of the FCN-8s.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        fc_channels: int | None = None,
        fc_kernel: int | None = None,
        theta: Sequence[float] = (160.0, 3.0, 3.0),
        grey_levels: float = GREY_LEVELS,
        iterations: Sequence[int] = (5, 10),
        unary_loss: float = 1.0,
    ) -> None:
        super().__init__()
        self.unary = FCN(dims, in_channels, classes, 8, widths, fc_channels, fc_kernel)
        self.divisor = self.unary.divisor
        self.unary_loss = unary_loss
        self.crf = DenseCRF(classes, Kernels.of(theta, grey_levels), (5.0, 3.0), iterations)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        scores = self.unary(x)
        marginals = self.crf(scores, x)
        if self.training and self.unary_loss:
            return Outputs(marginals, (scores,), (self.unary_loss,))
        return marginals
