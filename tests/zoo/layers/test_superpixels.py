"""Superpixels, their neighbours and means over them."""

from __future__ import annotations

import pytest
import torch

from medseg.zoo.layers.superpixels import extents, mean_over, neighbours, slic


@pytest.mark.parametrize("size", [(40, 44), (12, 14, 16)])
def test_superpixels_follow_the_edges_of_the_image(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    lines = [torch.arange(n) - n / 2 for n in size]
    mask = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt() < 0.3 * min(size)
    image = (2.0 * mask - 1)[None, None] + 0.1 * torch.randn(1, 1, *size)
    right = {}
    for name, compactness in (("slic", 0.5), ("grid", 1e3)):
        label, count = slic(image, 60, compactness)
        assert int(label.max()) < count <= 100
        most = mean_over(mask.float().flatten()[:, None], label.flatten(), count) > 0.5
        right[name] = float((most[label.flatten(), 0] == mask.flatten()).float().mean())
    assert right["slic"] > 0.99 > right["grid"]


def test_superpixels_of_an_image_do_not_depend_on_the_others_in_its_batch() -> None:
    images = torch.randn(3, 2, 20, 20)
    both, count = slic(images, 16)
    alone, _ = slic(images[1:2], 16)
    assert torch.equal(both[1:2], alone)
    assert count == 16


def test_neighbours_touch_and_extents_enclose() -> None:
    label = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 1]])
    assert neighbours(label, 4).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]
    apart = torch.tensor([[0, 1, 2]])
    assert neighbours(apart, 3)[0, 2] == 0
    low, high = extents(label, 4)
    assert low[:3].tolist() == [[0, 0], [0, 2], [2, 0]]
    assert high[:3].tolist() == [[1, 1], [2, 2], [2, 1]]
    assert low[3].isinf().all()


def test_means_are_of_the_voxels_of_each_and_0_where_there_are_none() -> None:
    means = mean_over(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    assert means.flatten().tolist() == [2.0, 0.0, 5.0]
