"""Rows of the classical methods."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.classical"

ROWS = (
    Card(
        name="threshold-otsu",
        title="Otsu's threshold",
        task="semantic",
        dims=(2, 3),
        family="classical",
        paper="doi:10.1109/TSMC.1979.4310076",
        year=1979,
        at=f"{HOME}.otsu:Otsu",
        aliases=("otsu",),
        kind="classical",
        search={"dark": (False, True)},
    ),
    Card(
        name="lung-threshold",
        title="Lungs on CT by threshold and components",
        task="semantic",
        dims=(3,),
        family="classical",
        paper="doi:10.1109/42.929615",
        year=2001,
        at=f"{HOME}.lung_threshold:LungThreshold",
        needs=("hu", "geometry"),
        aliases=("lungs-by-threshold",),
        kind="classical",
        search={"threshold_hu": (-500.0, -400.0, -320.0), "closing_mm": (3.0, 5.0, 8.0)},
    ),
)
