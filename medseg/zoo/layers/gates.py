"""Blocks that weigh features: squeeze-and-excitation, CBAM, attention gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv


class SqueezeExcite(nn.Module):
    """x * sigmoid(W2 relu(W1 mean(x))), one weight a channel. Hu et al. 2018, arXiv:1709.01507, equations 2-4."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.excite = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.excite(x.flatten(2).mean(dim=2))
        return x * weights[(...,) + (None,) * (x.ndim - 2)]


class CBAM(nn.Module):
    """Channel gate, then spatial gate. Woo et al. 2018, arXiv:1807.06521, equations 2 and 3.

    Channel: sigmoid(MLP(mean) + MLP(max)). Spatial: sigmoid(BN(conv7([max over channels, mean over channels]))).
    """

    def __init__(self, dims: int, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        self.spatial = nn.Sequential(
            plain_conv(dims, 2, 1, 7, bias=False), nd.make_norm("batch", dims, 1), nn.Sigmoid()
        )

    def channel_weights(self, x: Tensor) -> Tensor:
        """(B, C) in 0..1."""
        flat = x.flatten(2)
        return torch.sigmoid(self.mlp(flat.mean(dim=2)) + self.mlp(flat.amax(dim=2)))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.channel_weights(x)[(...,) + (None,) * (x.ndim - 2)]
        return x * self.spatial(torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1))


class AttentionGate(nn.Module):
    """Grid attention: a coarser signal decides which voxels of a skip pass. Oktay et al. 2018, arXiv:1804.03999.

    alpha = sigmoid(psi(relu(theta(x) + up(phi(g))))) on a grid of half the resolution, interpolated back; out =
    BN(W(alpha * x)). x: (B, C, *S); gate g: (B, G, *s). Returns the gated skip and alpha (B, 1, *S).
    """

    def __init__(self, dims: int, channels: int, gate_channels: int, inner: int) -> None:
        super().__init__()
        conv = nd.CONV[dims]
        self.theta = conv(channels, inner, 2, 2, bias=False)
        self.phi = conv(gate_channels, inner, 1)
        self.psi = conv(inner, 1, 1)
        self.out = nn.Sequential(conv(channels, channels, 1), nd.make_norm("batch", dims, channels))

    def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.theta(x)
        joined = torch.relu(theta + nd.resize(self.phi(gate), theta.shape[2:]))
        alpha = nd.resize(torch.sigmoid(self.psi(joined)), x.shape[2:])
        return self.out(alpha * x), alpha
