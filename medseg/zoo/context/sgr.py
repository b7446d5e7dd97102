"""SGR, symbolic graph reasoning. Liang, Hu, Zhang, Lin, Xing, NeurIPS 2018,
url:papers.nips.cc/paper/7456-symbolic-graph-reasoning-meets-convolutions.

Knowledge of what goes with what is put inside the network. Every position votes for symbolic nodes (classes, organs),
whose features are gathered from all over the image; nodes exchange features along a given graph of relations, each
knowing its word's embedding; and every position takes back from the nodes that fit it, beside its own feature.
Differs from the paper: nodes hold means, not sums, of what was voted for them, so that images of any size agree. The
compatibility of node and position is bilinear: the paper's, linear in both, cancels in its softmax over positions, so
that no node would be sent anywhere in particular. Without `relations` every node is related to all others alike;
without `embeddings` they are learned. Not confirmed: that the atrous pyramid stands before the graph, and no
auxiliary head. Nodes are few, so volumes cost little more; on maps of 12 voxels a side, as of 96^3, a rate of 12 and
more reads padding beside its own place.
Oracle: none kept; voting, graph convolution and mapping by their equations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast

RATES = (6, 12, 18, 24)


def normalised(relations: Sequence[Sequence[int]] | None, nodes: int) -> Tensor:
    """Q^-1/2 (A + I) Q^-1/2 of undirected pairs of nodes (M, M), Q the row sums; None relates all with 1 / (M - 1)."""
    if relations is None:
        adjacency = torch.full((nodes, nodes), 1.0 / max(nodes - 1, 1))
    else:
        adjacency = torch.zeros(nodes, nodes)
        for one, other in relations:
            if not (0 <= one < nodes and 0 <= other < nodes):
                raise ValueError(
                    f"the relation {[one, other]} names a node that is not among 0 to {nodes - 1}"
                )
            adjacency[one, other] = adjacency[other, one] = 1.0
    adjacency.fill_diagonal_(1.0)
    root = adjacency.sum(dim=1).rsqrt()
    return root[:, None] * adjacency * root


class SymbolicGraph(nn.Module):
    """x + what the nodes send to each position: (B, C, *s) -> the same.

    relations: (M, M), normalised. embeddings: (M, E) of the nodes' words, or the length E of vectors to be learned.
    """

    relations: Tensor

    def __init__(self, dims: int, channels: int, relations: Tensor, embeddings: Tensor | int) -> None:
        super().__init__()
        nodes = len(relations)
        self.register_buffer("relations", relations)
        if isinstance(embeddings, int):
            self.embeddings = nn.Parameter(0.1 * torch.randn(nodes, embeddings))
        else:
            self.register_buffer("embeddings", embeddings)
        self.vote = plain_conv(dims, channels, nodes, 1)
        self.gather = plain_conv(dims, channels, channels, 1, bias=False)
        self.reason = nn.Linear(channels + self.embeddings.shape[1], channels, bias=False)
        self.fit = plain_conv(dims, channels, channels, 1, bias=False)
        self.send = nn.Linear(channels, channels, bias=False)

    def summarise(self, x: Tensor) -> Tensor:
        """Local to semantic: (B, C, *s) -> node features (B, M, C); votes are a softmax over nodes."""
        votes = torch.softmax(self.vote(x), dim=1).flatten(2)
        share = votes / (votes.sum(dim=2, keepdim=True) + 1e-6)
        return torch.relu(share @ self.gather(x).flatten(2).transpose(1, 2))

    def evolve(self, nodes: Tensor) -> Tensor:
        """Graph reasoning: relu(A [nodes, embeddings] W) on (B, M, C)."""
        words = self.embeddings.to(nodes.dtype).expand(len(nodes), -1, -1)
        return torch.relu(self.relations.to(nodes.dtype) @ self.reason(torch.cat([nodes, words], dim=2)))

    def mapping(self, x: Tensor, nodes: Tensor) -> Tensor:
        """Semantic to local: (B, M, N), a softmax of compatibilities over positions, made to add up to 1 over nodes."""
        scores = nodes @ self.fit(x).flatten(2) * nodes.shape[2] ** -0.5
        return torch.softmax(scores - scores.logsumexp(dim=2, keepdim=True), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.evolve(self.summarise(x))
        sent = self.send(nodes).transpose(1, 2) @ self.mapping(x, nodes)
        return x + torch.relu(sent).reshape(x.shape)


class AtrousSum(nn.Module):
    """relu(norm(sum of dilated 3x3)): the atrous pyramid of DeepLab v2 on features instead of scores."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            plain_conv(dims, inputs, outputs, 3, dilation=rate, bias=False) for rate in RATES
        )
        self.norm = nd.make_norm("batch", dims, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(torch.stack([branch(x) for branch in self.branches]).sum(dim=0)))


class SGR(BackboneNet):
    """SGR on (B, in_channels, *S) -> logits (B, classes, *S).

    nodes: symbolic nodes (None: one a class). relations: pairs of nodes that have to do with each other, such as
    [[1, 2], [2, 3]]. embeddings: one vector a node; without them vectors of length `words` are learned.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 256,
        nodes: int | None = None,
        relations: Sequence[Sequence[int]] | None = None,
        embeddings: Sequence[Sequence[float]] | None = None,
        words: int = 300,
    ) -> None:
        nodes = classes if nodes is None else nodes
        if embeddings is not None and len(embeddings) != nodes:
            raise ValueError(f"there are {len(embeddings)} embeddings for {nodes} nodes")
        given = words if embeddings is None else torch.tensor(embeddings, dtype=torch.float32)
        encoder = make_resnet(backbone, dims, in_channels, 8)
        head = nn.Sequential(
            AtrousSum(dims, encoder.channels[-1], channels),
            SymbolicGraph(dims, channels, normalised(relations, nodes), given),
            plain_conv(dims, channels, classes, 1),
        )
        super().__init__(dims, encoder, OnLast(head), divisor=8)
