"""Residual encoding over a learned codebook. Zhang, Xue, Dana, CVPR 2017, arXiv:1612.02844."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Encoding(nn.Module):
    """Features (B, C, *s) -> encodings (B, K, C): e_k = sum over positions i of a_ik (x_i - d_k).

    a_ik is the softmax over codes k of s_k |x_i - d_k|^2 (equations 2 and 3 of arXiv:1803.08904, whose smoothing
    factors s_k are learned and start below 0). The residuals themselves, N K C numbers, are never formed.
    """

    def __init__(self, channels: int, codes: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(codes * channels)
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.empty(codes).uniform_(-1.0, 0.0))

    def assignments(self, points: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, K), each row a distribution over codes."""
        distance = points.square().sum(dim=-1, keepdim=True) + self.codewords.square().sum(dim=-1)
        distance = distance - 2 * points @ self.codewords.T
        return torch.softmax(self.smoothing * distance, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        # Differences of large squares: bfloat16 would lose them.
        with torch.autocast(x.device.type, enabled=False):
            points = x.flatten(2).transpose(1, 2).float()
            weights = self.assignments(points)
            return weights.transpose(1, 2) @ points - weights.sum(dim=1)[..., None] * self.codewords
