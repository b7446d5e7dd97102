"""Rows of the methods that grow, split, merge or flood regions."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.classical.regions"

ROWS = (
    Card(
        name="region-growing",
        title="Seeded region growing",
        task="semantic",
        dims=(2, 3),
        family="classical",
        paper="doi:10.1109/34.295913",
        year=1994,
        at=f"{HOME}.growing:RegionGrowing",
        needs=("prompt",),
        kind="classical",
        search={
            "rule": ("difference", "confidence", "competition"),
            "tolerance": (0.05, 0.1, 0.2),
            "k": (1.5, 2.5, 3.5),
        },
    ),
    Card(
        name="split-merge",
        title="Split and merge by quadtree or octree",
        task="semantic",
        dims=(2, 3),
        family="classical",
        paper="doi:10.1145/321941.321956",
        year=1976,
        at=f"{HOME}.split_merge:SplitMerge",
        takes=("prompt",),
        kind="classical",
        search={"split": (0.06, 0.12, 0.2), "merge": (0.04, 0.08, 0.15)},
    ),
    Card(
        name="split-merge-grow",
        title="Split and merge, then growth",
        task="semantic",
        dims=(2, 3),
        family="classical",
        paper="doi:10.1016/S0734-189X(85)90153-7",
        year=1985,
        at=f"{HOME}.split_merge_grow:SplitMergeGrow",
        takes=("prompt",),
        kind="classical",
        search={"split": (0.06, 0.12, 0.2), "merge": (0.04, 0.08, 0.15), "smallest": (4.0, 8.0, 32.0)},
    ),
    Card(
        name="watershed",
        title="Watershed by immersion",
        task="semantic",
        dims=(2, 3),
        family="classical",
        paper="doi:10.1109/34.87344",
        year=1991,
        at=f"{HOME}.watershed:Watershed",
        takes=("prompt",),
        kind="classical",
        search={"sigma_mm": (0.5, 1.0, 2.0), "level": (0.05, 0.1, 0.2), "compactness": (0.0, 0.01)},
    ),
)
