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
    ),
)
