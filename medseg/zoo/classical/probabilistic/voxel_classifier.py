"""What the methods that learn from labelled voxels share: features, where the labels come from, and the field after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.core.segmentation import Segmentation
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


def ordered_labels(truth: Segmentation) -> tuple[npt.NDArray[np.int64], dict[int, str]]:
    """(labels (N,), names): 0 background, 1 the first class, 2 the second ...; -1 for what is no class (ignored)."""
    classes = [info for info in truth.classes if info.index]
    found = np.asarray(truth.labels).ravel().astype(np.int64)
    order = np.where(found == 0, 0, -1)
    for number, info in enumerate(classes, 1):
        order[found == info.index] = number
    return order, {number: info.name for number, info in enumerate(classes, 1)}


def refuse_shapes(label: tuple[int, ...], image: tuple[int, ...], case: str, name: str) -> None:
    """Raises UserError where a label does not lie on its image."""
    if label != image:
        raise UserError(
            f"case {case} has a label of {label} on an image of {image}",
            f"system {name}",
            "bring the label to the image's grid first",
        )


class VoxelClassifier:
    """A model p(label | features of a voxel), learned from seeds or from labelled cases, then a field over the labels.

    A subclass has NAME, `learn(table, labels)` -> model, `probabilities(model, table, classes)` -> (N, K), and the way of
    its model to arrays and back, `arrays_of(model)` and `model_of(arrays)`.
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

    def needs_prompt(self, **parameters: Any) -> bool:
        return self.model is None

    def learn(self, table: Table, labels: npt.NDArray[np.int64]) -> Any:
        """A model of rows (N, F) and their labels (N,), 0 background."""
        raise TypeError(f"{type(self).__name__} does not say how it learns")

    def probabilities(self, model: Any, table: Table, classes: int) -> npt.NDArray[np.float64]:
        """p(label | row), (N, K)."""
        raise TypeError(f"{type(self).__name__} does not say what it predicts")

    def arrays_of(self, model: Any) -> dict[str, npt.NDArray[Any]]:
        """What `learn` returned, as arrays."""
        raise TypeError(f"{type(self).__name__} does not say what it learned")

    def model_of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
        """The model of `arrays_of`."""
        raise TypeError(f"{type(self).__name__} does not say what it learned")

    def configure(self, **arguments: Any) -> None:
        """Arguments of `segment` that count while learning."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What was fitted, as arrays; empty where nothing was."""
        return {} if self.model is None else self.arrays_of(self.model)

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], names: Mapping[int, str]) -> None:
        """Takes over what `state` gave. names: what the labels mean."""
        self.model, self.names = self.model_of(arrays), dict(names)

    def fit(self, cases: Iterable[Case], **arguments: Any) -> None:
        """Learns from labelled cases; used where no prompt is given. Label values are the classes in order, from 1."""
        self.configure(**arguments)
        tables, labels, names = [], [], {}
        for case in cases:
            if case.label_reader is None:
                continue
            values, truth = case.image().array, case.label()
            refuse_shapes(truth.labels.shape, values.shape[1:], case.id, self.NAME)
            order, known = ordered_labels(truth)
            rows = balanced_rows(order)
            rows = rows[order[rows] >= 0]
            tables.append(voxel_features(standardised(channels(values)))[rows])
            labels.append(order[rows])
            names.update(known)
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
