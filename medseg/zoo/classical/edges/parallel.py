"""Parallel edge detection. Davis 1975, CGIP 4(3), doi:10.1016/0146-664X(75)90012-X.

Parallel methods decide at every voxel from its own neighbourhood alone, so that all voxels can be decided at
once and in any order. Any local operator with a threshold is one; what the decisions lack is that a boundary
hangs together. The closing of gaps and the filling of what is enclosed put that in afterwards.
Differs from the paper: it is a survey; the operators are those of this catalog.
Oracle: for each operator, the method of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.zoo.classical.edges.canny import Canny
from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector
from medseg.zoo.classical.edges.gradient import Gradient
from medseg.zoo.classical.edges.kirsch import Kirsch
from medseg.zoo.classical.edges.laplacian import Laplacian
from medseg.zoo.classical.edges.prewitt import Prewitt
from medseg.zoo.classical.edges.roberts import Roberts
from medseg.zoo.classical.edges.sobel import Sobel
from medseg.zoo.classical.grey import chosen
from medseg.zoo.classical.morphology import Mask

OPERATORS: dict[str, type[EdgeDetector]] = {
    "sobel": Sobel,
    "prewitt": Prewitt,
    "roberts": Roberts,
    "kirsch": Kirsch,
    "gradient": Gradient,
    "laplacian": Laplacian,
    "canny": Canny,
}


@dataclass(frozen=True)
class ParallelArguments(EdgeArguments):
    """operator: sobel, prewitt, roberts, kirsch, gradient, laplacian or canny."""

    operator: str = "sobel"


class ParallelEdges(EdgeDetector):
    """Any local operator, a threshold, closing and filling."""

    name = "edge-parallel"
    Arguments = ParallelArguments

    def edges(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Mask:
        assert isinstance(options, ParallelArguments)
        operator = OPERATORS[chosen("operator", options.operator, OPERATORS, self.where)]()
        operator.name = self.name
        return operator.edges(grey, spacing_mm, options)
