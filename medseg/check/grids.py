"""How the cases lie in space: the census of orientations, sizes and spacings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def orientation_census(facts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Axis codes -> cases, most frequent first; photographs have none and are left out."""
    codes = Counter(str(fact["axis_codes"]) for fact in facts if fact.get("axis_codes"))
    return dict(codes.most_common())


def census_notes(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What people should know of the grids: orientations, odd spacings, single slices."""
    notes = []
    codes = orientation_census(facts)
    if codes:
        parts = ", ".join(f"{count} {code}" for code, count in codes.items())
        turned = (
            ""
            if list(codes) == ["RAS"]
            else "; all are turned to RAS inside, results keep the case's own grid"
        )
        notes.append(f"orientation: {parts}{turned}")
    volumes = [fact for fact in facts if fact.get("unit") == "mm" and len(fact["spacing"]) == 3]
    if volumes:
        low = [min(fact["spacing"][axis] for fact in volumes) for axis in range(3)]
        high = [max(fact["spacing"][axis] for fact in volumes) for axis in range(3)]
        spans = [f"{a:.3g}" if f"{a:.3g}" == f"{b:.3g}" else f"{a:.3g}-{b:.3g}" for a, b in zip(low, high)]
        notes.append(f"spacing: {' x '.join(spans)} mm (stored axes)")
    kinds = {(fact["unit"], len(fact["shape"])) for fact in facts}
    if len(kinds) > 1:
        notes.append("volumes and photographs are mixed in one cohort")
    return notes


def place_review(geometry: Any) -> list[str]:
    """Reasons to look at a case for its grid alone."""
    review = []
    if geometry.unit == "mm":
        if min(geometry.spacing) < 0.05 or max(geometry.spacing) > 20:
            spacing = " x ".join(f"{s:.3g}" for s in geometry.spacing)
            review.append(f"a voxel of {spacing} mm is unusual: are the units right?")
        if not geometry.is_orthogonal:
            review.append("the grid is sheared (gantry tilt): its axes do not stand at right angles")
    return review
