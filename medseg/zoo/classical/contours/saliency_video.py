"""Saliency-aware geodesic video segmentation. Wang, Shen, Porikli, CVPR 2015,
url:https://www.cv-foundation.org/openaccess/content_cvpr_2015/html/Wang_Saliency-Aware_Geodesic_Video_2015_CVPR_paper.html.

An object of a film is what its edges and its motion fence off from the frame's border: every superpixel's saliency is its
geodesic distance to the border over a graph whose steps cost spatial edges and edges of the optical flow. A second pass through
neighbouring frames makes it consistent; colours of salient and other places then give a model of object and background, and a
minimum cut over all frames at once, with links in space and in time, gives the mask.
Differs from the paper: appearance is a blurred histogram, not a mixture; the location prior is the saliency averaged over
neighbouring frames, not warped by motion; links in time join the same pixel, not the flow's; films wider than `side` are
computed on a coarser grid. In 2D frames only: the third axis is time; volumes over time would need a fourth.
Oracle: none kept; a textured square that moves over a textured ground is found, and is less salient when it
stands still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.regions import adjacency, means, slic
from medseg.zoo.classical.features import standardised
from medseg.zoo.classical.graphs.grid import contrast_links, minimum_cut, scaled
from medseg.zoo.classical.graphs.seed_models import log_likelihood
from medseg.zoo.classical.otsu import intensity, otsu_threshold

NAME = "saliency-geodesic-video"
Array = npt.NDArray[np.float64]


class SaliencyGeodesicVideo:
    """The moving, salient object of a film (C, H, W, frames)."""

    dims = (3,)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        segments: int = 300,
        side: int = 240,
        smoothness: float = 2.0,
        location_weight: float = 2.0,
    ) -> npt.NDArray[np.uint8]:
        """image (C, H, W, frames) -> labels (H, W, frames).

        segments: superpixels a frame. side: longest side in px that is computed on. smoothness: weight of links.
        location_weight: of saliency against colour. A film in which nothing stands out is all background.
        """
        step = max(1, -(-max(image.shape[1:3]) // side))
        film = coarse(image.astype(np.float32), step)
        if film[0].size < 64 or film.min() == film.max():
            return np.zeros(image.shape[1:], dtype=np.uint8)
        saliency = film_saliency(standardised(film), segments)
        labels = labelled(standardised(film), saliency, smoothness, location_weight).astype(np.uint8)
        fine = labels.repeat(step, axis=0).repeat(step, axis=1)
        short = [(0, max(0, n - m)) for n, m in zip(image.shape[1:], fine.shape, strict=True)]
        return np.pad(fine, short, mode="edge")[: image.shape[1], : image.shape[2]]


def coarse(film: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    """Frames (C, H, W, T) averaged over step x step pixels."""
    if step == 1:
        return film
    height, width = (n // step * step for n in film.shape[1:3])
    cut = film[:, :height, :width]
    return cut.reshape(len(film), height // step, step, width // step, step, -1).mean(axis=(2, 4))


def film_saliency(film: npt.NDArray[np.float32], segments: int) -> Array:
    """Saliency (H, W, T) from 0 to 1: geodesic distance to the border, then through the neighbouring frames."""
    frames = film.shape[-1]
    regions = [slic(film[..., t], (1.0, 1.0), segments) for t in range(frames)]
    edges = [edge_strength(film, t, regions[t]) for t in range(frames)]
    first = [border_distance(r, e) for r, e in zip(regions, edges, strict=True)]
    result = np.zeros(film.shape[1:])
    for t in range(frames):
        result[..., t] = first[t][regions[t]]
    around = np.stack([result[..., max(0, t - 1) : t + 2].mean(axis=-1) for t in range(frames)], axis=-1)
    return np.stack([means(regions[t], around[None, ..., t])[regions[t], 0] for t in range(frames)], axis=-1)


def edge_strength(film: npt.NDArray[np.float32], t: int, regions: npt.NDArray[np.int64]) -> Array:
    """Mean of colour edges times motion edges over each superpixel of frame t, (R,)."""
    spatial = slope(film[..., t])
    motion = slope(np.stack(flow(film, t))) if film.shape[-1] > 1 else np.ones_like(spatial)
    both = (spatial / (spatial.max() or 1.0) + 0.1) * (motion / (np.quantile(motion, 0.99) or 1.0) + 0.05)
    return means(regions, both[None])[:, 0]


def flow(film: npt.NDArray[np.float32], t: int) -> npt.NDArray[Any]:
    """Optical flow (2, H, W) from frame t to the next (the last: to the one before), in pixels."""
    from skimage.registration import optical_flow_ilk

    grey = intensity(film).astype(np.float32)
    other = t + 1 if t + 1 < film.shape[-1] else t - 1
    return optical_flow_ilk(grey[..., t], grey[..., other], radius=5, num_warp=5)


def slope(values: npt.NDArray[Any]) -> Array:
    """Size (H, W) of the gradient of (C, H, W), over all channels."""
    return np.sqrt(
        sum(np.square(np.gradient(v, axis=a)) for v in values for a in (0, 1) if v.shape[a] > 1)
    ).astype(np.float64)


def border_distance(regions: npt.NDArray[np.int64], strength: Array) -> Array:
    """Geodesic distance (R,) of every superpixel to the frame's border, scaled to 0 ... 1; a step costs the mean strength."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    count = len(strength)
    pairs, _ = adjacency(regions)
    cost = (strength[pairs[:, 0]] + strength[pairs[:, 1]]) / 2 + 1e-6
    rim = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    rows = np.concatenate([pairs[:, 0], np.full(len(rim), count)])
    columns = np.concatenate([pairs[:, 1], rim])
    values = np.concatenate([cost, np.full(len(rim), 1e-9)])
    graph = csr_matrix((values, (rows, columns)), shape=(count + 1, count + 1))
    distance = dijkstra(graph, directed=False, indices=count)[:count]
    return distance / (float(distance.max()) or 1.0)


def labelled(
    film: npt.NDArray[np.float32], saliency: Array, smoothness: float, location_weight: float
) -> Array:
    """Mask (H, W, T): colour models of salient and other places, the saliency itself, and links in space and time."""
    if saliency.min() == saliency.max():
        return np.zeros(saliency.shape)
    salient = saliency > otsu_threshold(saliency)
    colour = log_likelihood(film, ~salient) - log_likelihood(film, salient)
    chance = np.clip(saliency / (2 * otsu_threshold(saliency)), 0.02, 0.98)
    place = np.log(1 - chance) - np.log(chance)
    graph = scaled(contrast_links(film, (1.0, 1.0, 1.0)), smoothness)
    return minimum_cut(np.clip(colour, -5, 5) + location_weight * place, graph)
