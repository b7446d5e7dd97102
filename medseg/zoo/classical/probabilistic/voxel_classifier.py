"""What the methods that learn from labelled voxels share: features, where the labels come from, and the field after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import channels, checked_count, standardised
from medseg.zoo.classical.graphs.grid import contrast_links, scaled
from medseg.zoo.classical.probabilistic.solvers import expansion
from medseg.zoo.classical.seeds import BACKGROUND, seeds_of

Table = npt.NDArray[np.float32]
SCALES = (1.0, 2.0, 4.0)
"""Widths in voxels of the Gaussians that features are taken at."""
PER_CASE = 5000
"""Labelled voxels of a case that are learned from."""


def voxel_features(values: npt.NDArray[np.float32]) -> Table:
    """(N, F) of values (C, *S): each channel, and its mean, gradient and Laplacian at three scales."""
    from scipy import ndimage

    columns = []
    for channel in values:
        columns.append(channel)
        for sigma in SCALES:
            smooth = ndimage.gaussian_filter(channel, sigma, truncate=3)
            slopes = [np.gradient(smooth, axis=a) for a in range(smooth.ndim) if smooth.shape[a] > 1]
            slope = np.sqrt(sum(np.square(s) for s in slopes)) if slopes else np.zeros_like(smooth)
            columns += [smooth, slope, ndimage.laplace(smooth)]
    return np.stack([c.ravel() for c in columns], axis=1).astype(np.float32)


def balanced_rows(truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most PER_CASE rows (M,) of labels (N,), as many of each class as there are."""
    found = np.unique(truth)
    rng = np.random.default_rng(0)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(truth == v))[: PER_CASE // len(found)] for v in found]
    )


class VoxelClassifier:
    """A model p(label | features of a voxel), learned from seeds or from labelled cases, then a field over the labels.

    A subclass has NAME, `learn(table, labels)` -> model, and `probabilities(model, table, classes)` -> (N, K).
    """

    NAME: ClassVar[str]
    dims = (2, 3)

    def __init__(self) -> None:
        self.model: Any = None
        self.names: dict[int, str] = {}

    def classes_of(self, objects: int = 1, **parameters: Any) -> Mapping[int, str]:
        if self.names:
            return self.names
        return {1: "foreground"} if objects == 1 else {n: f"object {n}" for n in range(1, objects + 1)}

    def learn(self, table: Table, labels: npt.NDArray[np.int64]) -> Any:
        """A model of rows (N, F) and their labels (N,), 0 background."""
        raise TypeError(f"{type(self).__name__} does not say how it learns")

    def probabilities(self, model: Any, table: Table, classes: int) -> npt.NDArray[np.float64]:
        """p(label | row), (N, K)."""
        raise TypeError(f"{type(self).__name__} does not say what it predicts")

    def fit(self, cases: Iterable[Case]) -> None:
        """Learns from labelled cases; kept in memory, used where no prompt is given."""
        tables, labels, names = [], [], {}
        for case in cases:
            if case.label_reader is None:
                continue
            values, truth = case.image().array, case.label()
            if truth.labels.shape != values.shape[1:]:
                raise UserError(
                    f"case {case.id} has a label of {truth.labels.shape} on an image of {values.shape[1:]}",
                    f"system {self.NAME}",
                    "bring the label to the image's grid first",
                )
            rows = balanced_rows(np.asarray(truth.labels).ravel().astype(np.int64))
            tables.append(voxel_features(standardised(channels(values)))[rows])
            labels.append(np.asarray(truth.labels).ravel()[rows].astype(np.int64))
            names.update({c.index: c.name for c in truth.classes if c.index})
        if not tables or len(np.unique(np.concatenate(labels))) < 2:
            raise UserError(
                "there is no labelled case with two classes to learn from",
                f"system {self.NAME}",
                "give cases with labels, or a prompt with each image",
            )
        self.model, self.names = self.learn(np.concatenate(tables), np.concatenate(labels)), names

    def labelled(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None,
        objects: int,
        weight: float,
    ) -> npt.NDArray[np.uint8]:
        """Labels (*S): by the seeds' own model where there is a prompt, else by what was fitted."""
        checked_count(objects, objects, "objects", self.NAME, most=31)
        shape = image.shape[1:]
        values = standardised(channels(image))
        table = voxel_features(values)
        if prompt is not None or self.model is None:
            seeds = seeds_of(prompt, shape, spacing_mm, self.NAME, objects).ravel().astype(np.int64)
            rows = np.flatnonzero(seeds)
            rows = np.random.default_rng(0).permutation(rows)[: 4 * PER_CASE]
            model = self.learn(table[rows], np.where(seeds == BACKGROUND, 0, seeds)[rows])
            count = objects + 1
        else:
            model, count = self.model, max(self.names) + 1
        found = self.probabilities(model, table, count)
        unary = -np.log(np.maximum(found.T.reshape(count, *shape), 1e-3))
        if weight <= 0:
            return unary.argmin(axis=0).astype(np.uint8)
        return expansion(unary, scaled(contrast_links(values, spacing_mm), weight), rounds=2).astype(np.uint8)
