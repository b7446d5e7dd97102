"""Tree-augmented Bayesian network. Friedman, Geiger, Goldszmidt 1997, Machine Learning 29, doi:10.1023/A:1007465528199.

The joint probability is a product over a directed graph: the class is parent of every feature, and every feature has at
most one other feature as parent, p(c) p(x_root | c) prod p(x_i | x_parent(i), c). The tree of features that fits best is the
maximum spanning tree of their mutual information given the class, so that structure and tables are found exactly.
Differs from the paper: features of a voxel are cut into bins of equal counts instead of by entropy; tables are smoothed by
`prior` counts a cell; a contrast-sensitive field over the labels follows (weight 0 leaves it out).
Oracle: the exhaustive best tree of four features, and naive Bayes on features that are independent given the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.probabilistic.voxel_classifier import Table, VoxelClassifier

Bins = npt.NDArray[np.int64]


class Network(NamedTuple):
    """A learned network: edges of the bins, parent of each feature (-1: the class alone), ln p tables, ln p(c)."""

    edges: list[npt.NDArray[np.float64]]
    parents: list[int]
    tables: list[npt.NDArray[np.float64]]
    prior: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]


class TreeNetwork(VoxelClassifier):
    """A tree-augmented network over a voxel's features. Needs seeds, or labelled cases to fit."""

    NAME = "pgm-bayesian-network"
    bins = 8

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        objects: int = 1,
        weight: float = 1.0,
        bins: int = 8,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        objects: classes of seeds beside the background. weight: of the links between neighbours. bins: a feature.
        """
        self.configure(bins=bins)
        return self.labelled(image, spacing_mm, prompt, objects, weight)

    def configure(self, bins: int = 8, **arguments: Any) -> None:
        self.bins = max(2, bins)

    def arrays_of(self, model: Network) -> dict[str, npt.NDArray[Any]]:
        return {
            "edges": np.concatenate(model.edges),
            "edge_counts": np.array([len(e) for e in model.edges], dtype=np.int64),
            "parents": np.array(model.parents, dtype=np.int64),
            "tables": np.stack(model.tables),
            "prior": model.prior,
            "classes": np.asarray(model.classes, dtype=np.int64),
        }

    def model_of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Network:
        counts = np.asarray(arrays["edge_counts"])
        edges = np.split(np.asarray(arrays["edges"]), np.cumsum(counts)[:-1])
        parents, tables = [int(p) for p in arrays["parents"]], list(np.asarray(arrays["tables"]))
        if not len(edges) == len(parents) == len(tables) or max(parents) >= len(parents):
            raise ValueError("the tables of the network do not belong together")
        return Network(edges, parents, tables, np.asarray(arrays["prior"]), np.asarray(arrays["classes"]))

    def learn(self, table: Table, labels: npt.NDArray[np.int64]) -> Network:
        """Structure and tables from rows (N, F) and labels (N,)."""
        levels = np.linspace(0, 1, self.bins + 1)[1:-1]
        edges = [np.unique(np.quantile(column, levels)) for column in table.T.astype(np.float64)]
        return learned(binned(table, edges), labels, edges, self.bins)

    def probabilities(self, model: Network, table: Table, classes: int) -> npt.NDArray[np.float64]:
        """p(c | x), (N, K)."""
        cells = binned(table, model.edges)
        score = np.repeat(model.prior[None], len(table), axis=0)
        for feature, (parent, chances) in enumerate(zip(model.parents, model.tables, strict=True)):
            above = np.zeros(len(table), dtype=np.int64) if parent < 0 else cells[:, parent]
            score += chances[:, above, cells[:, feature]].T
        odds = np.exp(score - score.max(axis=1, keepdims=True))
        found = np.zeros((len(table), classes))
        found[:, model.classes] = odds / odds.sum(axis=1, keepdims=True)
        return found


def binned(table: Table, edges: Sequence[npt.NDArray[np.float64]]) -> Bins:
    """Bin (N, F) of every feature."""
    return np.stack(
        [np.searchsorted(e, c, side="right") for e, c in zip(edges, table.T, strict=True)], axis=1
    )


def learned(
    cells: Bins,
    labels: npt.NDArray[np.int64],
    edges: list[npt.NDArray[np.float64]],
    bins: int,
    prior: float = 0.5,
) -> Network:
    """The network of bins (N, F) and labels (N,). Classes count as equally frequent: seeds say nothing of sizes."""
    classes, index = np.unique(labels, return_inverse=True)
    parents = best_tree(conditional_information(cells, index, bins))
    tables = []
    for feature, parent in enumerate(parents):
        above = np.zeros(len(cells), dtype=np.int64) if parent < 0 else cells[:, parent]
        counts = np.full((len(classes), bins, bins), prior)
        np.add.at(counts, (index, above, cells[:, feature]), 1)
        tables.append(np.log(counts / counts.sum(axis=2, keepdims=True)))
    return Network(edges, parents, tables, np.full(len(classes), -np.log(len(classes))), classes)


def conditional_information(cells: Bins, index: npt.NDArray[np.int64], bins: int) -> npt.NDArray[np.float64]:
    """I(X_i; X_j | C) (F, F) in nats, from counts of bins (N, F) and classes (N,)."""
    features = cells.shape[1]
    found = np.zeros((features, features))
    weight = 1 / len(cells)
    for i in range(features):
        for j in range(i + 1, features):
            joint = np.zeros((int(index.max()) + 1, bins, bins))
            np.add.at(joint, (index, cells[:, i], cells[:, j]), weight)
            one, other = joint.sum(axis=2, keepdims=True), joint.sum(axis=1, keepdims=True)
            total = joint.sum(axis=(1, 2), keepdims=True)
            there = joint > 0
            ratio = (joint * total)[there] / (one * other)[there]
            found[i, j] = found[j, i] = float((joint[there] * np.log(ratio)).sum())
    return found


def best_tree(information: npt.NDArray[np.float64]) -> list[int]:
    """Parent of each feature in the maximum spanning tree, rooted at feature 0 (whose parent is -1)."""
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    cost = information.max(initial=0.0) + 1 - information
    np.fill_diagonal(cost, 0)
    tree = minimum_spanning_tree(cost)
    parents = breadth_first_order(tree, 0, directed=False)[1]
    return [int(p) if p >= 0 else -1 for p in parents]
