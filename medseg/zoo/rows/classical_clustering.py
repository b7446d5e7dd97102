"""Rows of clustering and superpixels."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.classical.clustering"
BOTH = (2, 3)

ROWS = (
    Card(
        name="cluster-kmeans",
        title="K-means",
        task="semantic",
        dims=BOTH,
        family="classical",
        paper="url:https://projecteuclid.org/euclid.bsmsp/1200512992",
        year=1967,
        at=f"{HOME}.kmeans:KMeans",
        aliases=("k-means", "kmeans"),
        kind="classical",
        search={"clusters": (2, 3, 4, 5), "place_weight": (0.0, 0.2, 0.5)},
    ),
    Card(
        name="cluster-spectral",
        title="Spectral clustering of supervoxels",
        task="semantic",
        dims=BOTH,
        family="classical",
        paper="url:https://papers.nips.cc/paper/2092",
        year=2001,
        at=f"{HOME}.spectral:Spectral",
        aliases=("spectral-clustering",),
        kind="classical",
        search={"clusters": (2, 3, 4), "scale": (0.3, 0.5, 1.0), "place_weight": (0.0, 0.5)},
    ),
    Card(
        name="cluster-meanshift",
        title="Mean shift on supervoxels",
        task="semantic",
        dims=BOTH,
        family="classical",
        paper="doi:10.1109/34.1000236",
        year=2002,
        at=f"{HOME}.meanshift:MeanShift",
        aliases=("mean-shift",),
        kind="classical",
        search={"quantile": (0.1, 0.15, 0.2, 0.3), "place_weight": (0.0, 0.2)},
    ),
    Card(
        name="superpixel-slic",
        title="SLIC superpixels",
        task="semantic",
        dims=BOTH,
        family="classical",
        paper="doi:10.1109/TPAMI.2012.120",
        year=2012,
        at=f"{HOME}.slic:SLIC",
        aliases=("slic",),
        kind="classical",
        search={"segments": (200, 500, 2000), "compactness": (0.1, 0.3, 1.0), "groups": (2, 3)},
    ),
    Card(
        name="superpixel-generic",
        title="Superpixels as the unit",
        task="semantic",
        dims=BOTH,
        family="classical",
        paper="doi:10.1109/ICCV.2003.1238308",
        year=2003,
        at=f"{HOME}.superpixels:Superpixels",
        aliases=("superpixels", "over-segmentation"),
        kind="classical",
        search={"cut": ("watershed", "slic"), "segments": (200, 500, 2000), "groups": (2, 3)},
    ),
)
