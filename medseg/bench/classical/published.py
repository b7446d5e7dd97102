"""Figures that others published on the whole of a set, for the page to stand them beside ours."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A method, its figures as the page prints them, and where they stand."""

    method: str
    figures: str
    source: str


ARBELAEZ = "Arbelaez et al. 2011, doi:10.1109/TPAMI.2010.161, BSDS500, 200 test images; remembered, not looked up again"

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
}
"""Data set -> (what the figures are, the figures)."""
