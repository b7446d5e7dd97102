"""Figures that others published on the whole of a set, for the page to stand them beside ours."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A method, its figures as the page prints them, and where they stand."""

    method: str
    figures: str
    source: str


ARBELAEZ = "Arbelaez et al. 2011, doi:10.1109/TPAMI.2010.161, BSDS500, 200 test images"

PUBLISHED: dict[str, tuple[str, tuple[Published, ...]]] = {
    "bsds": (
        "covering ODS / OIS, boundary F ODS / OIS",
        (
            Published("people", "0.72 / 0.72, 0.80 / 0.80", ARBELAEZ),
            Published("gPb-owt-ucm", "0.59 / 0.65, 0.73 / 0.76", ARBELAEZ),
            Published("mean shift", "0.54 / 0.58, 0.64 / 0.68", ARBELAEZ),
            Published("Felzenszwalb and Huttenlocher", "0.52 / 0.57, 0.61 / 0.64", ARBELAEZ),
            Published("Canny with owt-ucm", "0.49 / 0.55, 0.60 / 0.64", ARBELAEZ),
            Published("normalised cuts", "0.45 / 0.53, 0.64 / 0.68", ARBELAEZ),
            Published("quad-tree", "0.32 / 0.37, 0.38 / 0.39", ARBELAEZ),
        ),
    ),
    "strokes": (
        "misclassified pixels of the band that a lasso left open, 50 photographs; another prompt and another measure",
        (
            Published("GMMRF", "7.9 %", "Blake et al. 2004, doi:10.1007/978-3-540-24670-1_33"),
            Published("random walker", "5.4 %", "Duchenne et al. 2008, doi:10.1109/CVPR.2008.4587419"),
            Published("graph cut", "6.7 %", "Price et al. 2010, doi:10.1109/CVPR.2010.5540079"),
            Published("geodesic distance", "6.8 %", "Price et al. 2010, doi:10.1109/CVPR.2010.5540079"),
        ),
    ),
}
"""Data set -> (what the figures are, the figures)."""
