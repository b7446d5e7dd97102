"""Discriminative random field. He, Zemel, Carreira-Perpinan, CVPR 2004, doi:10.1109/CVPR.2004.1315232.

What is modelled is p(L | image), not how images come about: a classifier that sees a voxel's surroundings at several scales
gives each label's probability, and a field over neighbouring labels makes them agree. No independence of the features
is assumed, so that they may overlap as they like.
Differs from the paper: the local classifier is a random forest instead of a neural network, the label features are a
contrast-sensitive Potts term instead of learned ones, and alpha-expansion replaces sampling. Learns from seeds of the image
itself, or from labelled cases.
Oracle: scikit-learn `RandomForestClassifier` voxel by voxel where the field's weight is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.probabilistic.forest import Forest, restored
from medseg.zoo.classical.probabilistic.voxel_classifier import Table, VoxelClassifier


class ForestField(VoxelClassifier):
    """A random forest a voxel and a field over its labels. Needs seeds, or labelled cases to fit."""

    NAME = "pgm-discriminative"
    trees = 100

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        objects: int = 1,
        weight: float = 1.0,
        trees: int = 100,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        objects: classes of seeds beside the background. weight: of the links between neighbours. trees: of the forest.
        """
        self.configure(trees=trees)
        return self.labelled(image, spacing_mm, prompt, objects, weight)

    def configure(self, trees: int = 100, **arguments: Any) -> None:
        self.trees = max(1, trees)

    def learn(self, table: Table, labels: npt.NDArray[np.int64]) -> Any:
        """A forest on rows (N, F) and labels (N,)."""
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            self.trees, max_depth=10, min_samples_leaf=2, class_weight="balanced", random_state=0, n_jobs=1
        )
        return forest.fit(table, labels)

    def probabilities(self, model: Any, table: Table, classes: int) -> npt.NDArray[np.float64]:
        """Share of the trees' votes, (N, K)."""
        found = np.zeros((len(table), classes))
        found[:, model.classes_] = model.predict_proba(table)
        return found

    def arrays_of(self, model: Any) -> dict[str, npt.NDArray[Any]]:
        return (model if isinstance(model, Forest) else Forest.of(model)).state()

    def model_of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Forest:
        return restored(arrays)
