"""The two baselines of the zoo's bench: what they count is what they say."""

from __future__ import annotations

import numpy as np

from medseg.bench.baselines import INTENSITY, MAJORITY, cells_of, fit_baseline


class Flat:
    """A prepared case of one channel."""

    channels = 1

    def __init__(self, image: np.ndarray, target: np.ndarray) -> None:
        self.image, self.target, self.shape = image, target, target.shape

    def read_image(self, low: list[int], high: tuple[int, ...]) -> np.ndarray:
        return self.image[None]

    def read_target(self, low: list[int], high: tuple[int, ...]) -> np.ndarray:
        return self.target


class FewFacts:
    overlapping, background, dims, in_channels, out_channels = False, True, 2, 1, 3


def test_the_intensity_baseline_is_the_table_it_says_it_is() -> None:
    import torch

    rng = np.random.default_rng(0)
    image = rng.uniform(0, 3, (40, 40)).astype(np.float32)
    target = image.astype(np.uint8)
    target[0] = 255  # ignored
    net = fit_baseline(INTENSITY, {"a": Flat(image, target)}, FewFacts(), seed=1)
    found = net(torch.from_numpy(image)[None, None]).argmax(1)[0].numpy()
    assert (found == image.astype(int)).mean() > 0.98
    limits = net.edges.numpy()
    assert cells_of(image.reshape(-1, 1), limits).max() < len(net.table)


def test_the_majority_baseline_says_the_same_everywhere() -> None:
    import torch

    target = np.zeros((8, 8), np.uint8)
    target[:2] = 2
    net = fit_baseline(MAJORITY, {"a": Flat(np.zeros((8, 8), np.float32), target)}, FewFacts(), seed=1)
    assert (net(torch.randn(1, 1, 5, 7)).argmax(1) == 0).all()
