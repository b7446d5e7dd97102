"""What symbolic graph reasoning and the cascade claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.sgr import SymbolicGraph, normalised


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_nodes_reason_along_their_relations_only() -> None:
    graph = SymbolicGraph(2, 6, normalised([[0, 1]], 3), torch.randn(3, 4))
    nodes = torch.randn(1, 3, 6, requires_grad=True)
    told = torch.autograd.grad(graph.evolve(nodes)[0, 0].sum(), nodes)[0]
    assert (told[0, 1] != 0).any(), "node 1 is related to node 0"
    assert not (told[0, 2] != 0).any(), "node 2 is not"


def test_the_graph_is_normalised_by_the_roots_of_its_row_sums() -> None:
    expected = torch.tensor([[1 / 2, 1 / 6**0.5, 0], [1 / 6**0.5, 1 / 3, 1 / 6**0.5], [0, 1 / 6**0.5, 1 / 2]])
    torch.testing.assert_close(normalised([[0, 1], [1, 2]], 3), expected)
    torch.testing.assert_close(normalised(None, 3), torch.full((3, 3), 0.25) + 0.25 * torch.eye(3))


@pytest.mark.parametrize("dims", [2, 3])
def test_far_positions_talk_through_the_nodes(dims: int) -> None:
    graph = SymbolicGraph(dims, 6, normalised(None, 4), 3)
    x = torch.randn(1, 6, *(5,) * dims, requires_grad=True)
    graph(x)[(0, slice(None), *(0,) * dims)].sum().backward()
    assert (x.grad[(0, slice(None), *(4,) * dims)] != 0).any()


def test_nodes_are_sent_where_they_fit() -> None:
    graph = SymbolicGraph(2, 6, normalised(None, 3), 2)
    x, nodes = torch.randn(1, 6, 4, 4), torch.randn(1, 3, 6)
    mapping = graph.mapping(x, nodes)
    scores = torch.einsum("bmc,bcn->bmn", nodes, graph.fit(x).flatten(2)) / 6**0.5
    over_positions = scores.softmax(dim=2)
    torch.testing.assert_close(mapping, over_positions / over_positions.sum(dim=1, keepdim=True))
    assert mapping.std(dim=2).min() > 1e-3, "each node goes to some places more than to others"


def test_embeddings_that_are_given_are_kept() -> None:
    words = [[1.0, 0.0], [0.0, 1.0]]
    net = build("sgr", dims=2, in_channels=1, classes=2, size="tiny", embeddings=words, relations=[[0, 1]])
    graph = net.head.module[1]
    assert graph.embeddings.tolist() == words
    assert "embeddings" not in dict(graph.named_parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relations": [[0, 5]]}, r"the relation \[0, 5\] names a node that is not among 0 to 1"),
        ({"embeddings": [[1.0]]}, "there are 1 embeddings for 2 nodes"),
    ],
)
def test_knowledge_of_other_nodes_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("sgr", dims=2, in_channels=1, classes=2, size="tiny", **arguments)


def cascade(**arguments: object) -> torch.nn.Module:
    return build("cascade-net", dims=2, in_channels=1, classes=5, size="tiny", **arguments).eval()


def test_the_product_is_a_distribution_and_its_loss_that_of_the_streams() -> None:
    net = cascade(objects=[2, 3], parts=[[4, 3]])
    stuff, objects, parts = torch.randn(1, 3, 1, 4), torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4)
    logs = net.product([stuff, objects, parts])
    torch.testing.assert_close(logs.exp().sum(dim=1), torch.ones(1, 1, 4))
    labels = torch.tensor([[[0, 2, 3, 4]]])
    loss = F.cross_entropy(logs, labels, reduction="sum")
    of_stuff = F.cross_entropy(stuff, torch.tensor([[[0, 2, 2, 2]]]), reduction="sum")
    of_objects = F.cross_entropy(objects[..., 1:], torch.tensor([[[0, 1, 1]]]), reduction="sum")
    of_parts = F.cross_entropy(parts[..., 2:], torch.tensor([[[0, 1]]]), reduction="sum")
    torch.testing.assert_close(loss, of_stuff + of_objects + of_parts)


def test_the_object_stream_learns_inside_objects_only() -> None:
    net = cascade()
    scores = [torch.randn(1, 2, 2, 3), torch.randn(1, 4, 2, 3, requires_grad=True)]
    labels = torch.tensor([[[0, 0, 0], [0, 2, 0]]])
    F.cross_entropy(net.product(scores), labels).backward()
    assert (scores[1].grad[0].abs().sum(dim=0) > 1e-4).tolist() == [[False] * 3, [False, True, False]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objects": [0, 1, 2, 3, 4]}, r"of 5 classes \[\] are stuff"),
        ({"objects": [7]}, r"objects and parts are \[7\]; each is one of 0 to 4"),
        ({"objects": [1], "parts": [[3, 2]]}, "class 2 has parts but is no object"),
    ],
)
def test_a_partition_that_is_none_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cascade(**arguments)
