"""When a classical method works and when it does not: what a person should know before trying it."""

from __future__ import annotations

from collections.abc import Mapping

NOTES: Mapping[str, tuple[str, str]] = {
    "threshold-otsu": (
        "when object and ground differ in brightness everywhere by more than they vary, and neither is tiny.",
        "under uneven light, and when the object is a few percent of the image: the threshold then parts the ground.",
    ),
    "lung-threshold": (
        "on chest CT in HU with aerated lungs; gives both lungs by side, without weights, in seconds.",
        "where lung is as dense as muscle (consolidation, effusion, large tumours): that part is missing.",
    ),
    "threshold-fixed": (
        "where values have a meaning of their own, as in CT: bone above 200 HU, air below -400 HU.",
        "on MR and photographs, whose values mean something else in every image.",
    ),
    "threshold-bimodal": (
        "on histograms with two clear peaks, also of very different height.",
        "where a third kind of matter or noise adds a peak: smoothing then ends somewhere arbitrary, or with an error.",
    ),
    "threshold-iterative": (
        "where Otsu works; it comes to rest at nearly the same value.",
        "where the mean of the image is far from both kinds: it may rest in the first valley it meets.",
    ),
    "threshold-adaptive": (
        "under uneven light, on print, cells and membranes: set the window to a few times the width of the objects.",
        "inside objects broader than the window, which come out hollow, and on flat ground, where it marks noise;"
        " `offset` or Sauvola's rule helps.",
    ),
    "threshold-multi-otsu": (
        "with three or four kinds of matter of clearly different brightness: air, soft tissue, bone.",
        "when one kind is rare: its class is spent on a shade of a frequent one. Time grows quickly with `levels`.",
    ),
    "threshold-submean": (
        "as a quick remedy for slow changes of light when every block holds object and ground.",
        "in blocks that hold only one of them: they are cut in two all the same.",
    ),
    "threshold-optimal": (
        "with `criterion: tuned`, once fitted to labelled cases of the same kind; minimum error when both kinds are normally distributed"
        " with different widths.",
        "on values with another distribution, and on images unlike those it was fitted to.",
    ),
    "threshold-max-entropy": (
        "on small bright objects over a broad dark ground.",
        "on clean images with few grey values, where entropy says little.",
    ),
    "threshold-fuzzy": (
        "on images with two blurred but equally sharp kinds.",
        "on very unequal sizes: the larger one takes part of the other.",
    ),
    "histogram-bundling": (
        "when the number of kinds is unknown and each has a peak of its own.",
        "on broad, overlapping kinds, which have one peak together.",
    ),
    "threshold-li": (
        "on fluorescence: bright objects of varying strength on dark ground.",
        "on dark objects of a bright image without `dark`, and under uneven light.",
    ),
    "threshold-triangle": (
        "when ground is one high peak and the object a long tail.",
        "when both peaks are of like height.",
    ),
    "threshold-yen": (
        "on clear, bright, small objects.",
        "on weak objects: it tends to take too little.",
    ),
    "threshold-moments": (
        "when two sharp kinds were blurred by the camera.",
        "when there are more than two kinds.",
    ),
    "threshold-shanbhag": (
        "rarely better than `threshold-max-entropy`; worth a try beside it.",
        "on smooth histograms: thresholds at the edge of the range are not rare.",
    ),
    "edge-fourier-highpass": (
        "on textures of one grain against flat ground.",
        "on sharp corners and at the image's border, where it rings.",
    ),
    "edge-gradient": (
        "on smooth images with strong, closed outlines.",
        "as soon as an outline has a gap wider than twice `closing_mm`: nothing is enclosed, the object disappears.",
    ),
    "edge-roberts": (
        "on images without noise, at the finest scale.",
        "on noise: two voxels do not average anything.",
    ),
    "edge-sobel": (
        "as a first try of this family.",
        "on open outlines and on texture, which is all edges.",
    ),
    "edge-prewitt": (
        "where Sobel does; the difference is small.",
        "where Sobel does.",
    ),
    "edge-canny": (
        "on thin, connected outlines; raise `sigma_mm` against texture.",
        "at corners and T-junctions, where its lines break, so that regions stay open.",
    ),
    "edge-laplacian": (
        "on sharp images without noise; lines are always closed.",
        "on noise, which it amplifies most.",
    ),
    "edge-kirsch": (
        "on outlines in eight directions (26 in 3D) that Sobel finds too weak.",
        "on texture; in 3D it is the slowest of this family.",
    ),
    "edge-log": (
        "on blobs of about the width of `hat_mm`.",
        "on objects of very different sizes: choose one size.",
    ),
    "edge-serial": (
        "for one object with a strong outline, better still with a few points on it.",
        "where a stronger outline runs nearby: the path leaves for it. 2D only.",
    ),
    "edge-parallel": (
        "to exchange the operator without anything else changing.",
        "as its operator does.",
    ),
    "region-growing": (
        "from seeds in an organ of even brightness with a closed border; lungs, vessels, ventricles.",
        "by leaking through a gap of one voxel; lower `tolerance` or take `rule: competition` with seeds outside.",
    ),
    "split-merge": (
        "on images made of flat areas.",
        "on smooth shading and round outlines, which come out in blocks.",
    ),
    "split-merge-grow": (
        "where split and merge does, with outlines that follow the image.",
        "on texture, whose blocks never become uniform.",
    ),
    "watershed": (
        "with markers in every object and in the ground: touching objects are parted along their ridges.",
        "without markers on noise: too many basins; raise `level` or `sigma_mm`.",
    ),
    "cluster-kmeans": (
        "on colours or on several MR channels that form round clusters of like size.",
        "on one grey channel it is a multi-level threshold; small classes are swallowed.",
    ),
    "cluster-spectral": (
        "when classes are long chains of neighbouring shades, not balls.",
        "beyond some thousand superpixels (cost), and on objects smaller than a superpixel.",
    ),
    "cluster-meanshift": (
        "when the number of clusters is unknown.",
        "on a bandwidth that does not fit: one cluster for all, or dozens.",
    ),
    "superpixel-slic": (
        "as units for other methods; with `groups` it is K-means without salt and pepper.",
        "on structures thinner than a superpixel: raise `segments`.",
    ),
    "superpixel-generic": (
        "as units; Felzenszwalb and quickshift follow colours closely in 2D.",
        "with `groups: 0` and more than 255 regions, which it refuses.",
    ),
    "graph-min-cut": (
        "with seeds on both sides of one clear border.",
        "without seeds: the shortest weak outline encloses only the brightest spots.",
    ),
    "graph-normalized-cut": (
        "on a few large areas of different colour.",
        "on small objects: balanced cuts are cheaper. Cost grows with the cube of `nodes`.",
    ),
    "graph-cuts": (
        "with strokes that show the colours of object and ground.",
        "on thin structures (shrinking bias) and where both share their colours.",
    ),
    "grabcut": (
        "with a box around one object whose colours do not occur outside it; the least work of all.",
        "when object and ground share colours, and on one grey channel, where mixtures say little.",
    ),
    "random-walker": (
        "with weak or broken borders: the probability fills gaps smoothly.",
        "with few seeds on large images: a border is drawn halfway between seeds. Slow on large volumes.",
    ),
    "interactive-seeds": (
        "with strokes spread over the object; very quick, several objects at once.",
        "with a single dot: what is near counts more than what is alike.",
    ),
    "pgm-generative": (
        "on tissue classes of MR with noise: brain white matter, grey matter, fluid.",
        "on strong shading, which it takes for another class.",
    ),
    "pgm-discriminative": (
        "with strokes or labelled cases: learns textures that no threshold sees, membranes for example.",
        "on kinds of image unlike those it has learnt from.",
    ),
    "pgm-bayesian-network": (
        "where the forest does, with less to learn from; it can be read as a graph.",
        "on features that depend on each other in threes; `bins` too many for the seeds.",
    ),
    "mrf-potts": (
        "on strong noise over large, smooth areas.",
        "on thin structures, which a large `beta` removes.",
    ),
    "crf-grid": (
        "as Potts, with borders that follow edges.",
        "where noise is as strong as edges.",
    ),
    "crf-dense": (
        "to sharpen a rough result along colours, in 2D.",
        "on grey volumes with broad noise; the slowest of this family in 3D.",
    ),
    "snake": (
        "from a box close around one smooth, roundish object. 2D only.",
        "on concave outlines and from far away: it stays where it is, or shrinks to a point.",
    ),
    "level-set": (
        "from a region near the border of one object, in 3D with smooth surfaces.",
        "on weak borders: it runs over. Slow.",
    ),
    "acwe": (
        "on objects of another mean than the ground, also without any edge.",
        "under uneven light: two means are not enough.",
    ),
    "morph-acwe": (
        "where `acwe` does, quicker and without a time step to choose.",
        "under uneven light; thin structures are smoothed away.",
    ),
    "acm-localized": (
        "under uneven light: means are taken around each place of the border.",
        "far from its start: it sees no further than its window.",
    ),
    "sparsity-based": (
        "on print or thin bright things over a smooth ground.",
        "on large objects, which the smooth part explains as well.",
    ),
    "saliency-geodesic-video": (
        "on films in which one thing moves and stands out from the frame's border.",
        "when it touches the border, stands still, or all moves.",
    ),
}
"""Method -> (when it works, when it does not)."""
