"""A fitted random forest as plain arrays: it can be stored without pickle and gives the same probabilities.

A row goes left where its feature, as float32, is at most the node's threshold, and the forest's answer is the mean of its
leaves' shares of classes, both as scikit-learn does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS = 1 << 14
"""Rows that walk down the trees together: their places stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Forest:
    """All trees' nodes in a row.

    roots (T,): first node of each tree. feature (N,): -1 in a leaf. threshold (N,): float64. left (N,): the child of
    rows at or below the threshold; the other child is `right` (N,). shares (N, K): classes' shares in the node.
    depth: of the deepest tree. classes_ (K,): what the shares are of.
    """

    roots: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    shares: npt.NDArray[np.float64]
    depth: int
    classes_: npt.NDArray[np.int64]

    @classmethod
    def of(cls, forest: Any) -> Forest:
        """The arrays of a fitted scikit-learn RandomForestClassifier."""
        trees = [one.tree_ for one in forest.estimators_]
        roots = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])[:-1]]).astype(np.int64)
        leaf = [tree.children_left < 0 for tree in trees]
        # A leaf's children are the leaf itself, so that all rows take equally many steps.
        own = [np.arange(tree.node_count) for tree in trees]
        left = [
            np.where(end, me, tree.children_left) + root
            for tree, end, me, root in zip(trees, leaf, own, roots)
        ]
        right = [
            np.where(end, me, tree.children_right) + root
            for tree, end, me, root in zip(trees, leaf, own, roots)
        ]
        shares = np.concatenate([tree.value[:, 0, :] for tree in trees])
        return cls(
            roots,
            np.concatenate([np.where(end, -1, tree.feature) for tree, end in zip(trees, leaf)]).astype(
                np.int64
            ),
            np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
            np.concatenate(left).astype(np.int64),
            np.concatenate(right).astype(np.int64),
            shares / shares.sum(axis=1, keepdims=True),
            max(int(tree.max_depth) for tree in trees),
            np.asarray(forest.classes_, dtype=np.int64),
        )

    def predict_proba(self, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Mean shares (M, K) of rows (M, F)."""
        found = np.zeros((len(table), len(self.classes_)))
        children = np.stack([self.left, self.right], axis=1).ravel()
        feature = np.maximum(self.feature, 0)
        for start in range(0, len(table), ROWS):
            part = np.ascontiguousarray(table[start : start + ROWS], dtype=np.float32)
            base = np.arange(len(part)) * part.shape[1]
            flat = part.ravel()
            for root in self.roots:
                node = np.full(len(part), root)
                for _ in range(self.depth):
                    above = flat[base + feature[node]] > self.threshold[node]
                    node = children[2 * node + above]
                found[start : start + ROWS] += self.shares[node]
        return found / len(self.roots)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All of it as arrays; `restored` is the way back."""
        return {
            "roots": self.roots, "feature": self.feature, "threshold": self.threshold, "left": self.left,
            "right": self.right, "shares": self.shares, "depth": np.array([self.depth]), "classes": self.classes_,
        }  # fmt: skip


def restored(arrays: Mapping[str, npt.NDArray[Any]]) -> Forest:
    """The forest of `Forest.state`. ValueError where arrays do not belong together, KeyError where one is missing."""
    names = ("roots", "feature", "threshold", "left", "right", "shares", "classes")
    roots, feature, threshold, left, right, shares, classes = (np.asarray(arrays[name]) for name in names)
    nodes = len(feature)
    sound = (
        all(len(a) == nodes for a in (threshold, left, right, shares))
        and shares.shape[1:] == (len(classes),)
        and all(a.size and a.min() >= 0 and a.max() < nodes for a in (roots, left, right))
    )
    if not sound:
        raise ValueError("the nodes of the forest do not belong together")
    return Forest(roots, feature, threshold, left, right, shares, int(arrays["depth"][0]), classes)
