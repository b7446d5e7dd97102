"""What Mask2Former claims of masked attention and of sets of masks, and what its oracles say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.layers.deformable_attention import DeformableAttention, directions, references
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.layers.mask_matching import match, set_loss, truths
from medseg.zoo.layers.positions import sine_positions
from medseg.zoo.transformer.mask2former import DecoderLayer, hidden_places


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def perfect(labels: Tensor, queries: list[int], classes: int) -> tuple[Tensor, Tensor]:
    """Logits of queries that each give one class (`classes` for nothing) and its mask at full confidence."""
    named = 20 * torch.nn.functional.one_hot(torch.tensor(queries), classes + 1).float()[None]
    drawn = torch.stack([12 * (labels[0] == c).float() - 6 for c in queries])[None]
    return named, drawn


def test_a_query_reads_only_where_its_mask_lies() -> None:
    layer = DecoderLayer(8, 2, 8)
    masks = torch.full((1, 2, 4, 4), -5.0)
    masks[0, 0, :2], masks[0, 1, 2:] = 5.0, 5.0
    hidden = hidden_places(masks, (4, 4))
    source = torch.randn(1, 16, 8)
    other = source.clone()
    other[:, 8:] = torch.randn(1, 8, 8)
    x, names, codes = torch.randn(1, 2, 8), torch.zeros(2, 8), torch.zeros(16, 8)
    layer.talk.forward = lambda q, *_a, **_k: (torch.zeros_like(q), None)  # type: ignore[method-assign]
    first, second = layer(x, names, source, codes, hidden), layer(x, names, other, codes, hidden)
    torch.testing.assert_close(first[0, 0], second[0, 0])
    assert not torch.allclose(first[0, 1], second[0, 1])


def test_each_layer_reads_the_next_finer_scale_where_the_masks_before_it_lie() -> None:
    net = build("mask2former", dims=2, in_channels=1, classes=2, size="tiny").eval()
    read: list[tuple[Tensor, ...]] = []
    for layer in net.layers:
        layer.register_forward_pre_hook(lambda _module, inputs: read.append(inputs))
    with torch.no_grad():
        fine, scales = net.pixels(net.encoder(torch.randn(1, 1, 128, 128)))
        _, masks = net.decode(fine, scales)
    assert [x[2].shape[1] for x in read] == [4 * 4, 8 * 8, 16 * 16]
    for inputs, before, scale in zip(read, masks, scales, strict=False):
        assert torch.equal(inputs[4], hidden_places(before, scale.shape[2:]))
    assert any(inputs[4].any() for inputs in read)


def test_a_query_without_a_mask_reads_everywhere() -> None:
    assert not hidden_places(torch.full((1, 1, 4, 4), -5.0), (2, 2)).any()


def test_masks_are_matched_whatever_the_order_of_the_queries() -> None:
    labels = torch.randint(0, 3, (1, 16, 16))
    truth = truths(*label_masks(labels, 3, 2))
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        named, drawn = perfect(labels, order, 3)
        rows, columns = match(named[0], drawn[0], truth[0])
        assert [order[r] for r in rows] == truth[0].classes[columns].tolist()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_set_loss_is_low_only_for_the_right_classes_and_masks(dims: int) -> None:
    labels = torch.zeros(1, *(8,) * dims, dtype=torch.long)
    labels[:, 2:6] = 1
    truth = truths(*label_masks(labels, 2, dims))
    named, drawn = perfect(labels, [0, 1, 2], 2)
    assert set_loss(named, drawn, truth) < 5
    assert set_loss(named[:, [1, 0, 2]], drawn, truth) > 20
    assert set_loss(named, -drawn, truth) > 20


def test_voxels_left_out_are_compared_in_no_mask() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 1
    known = labels.clone()
    known[:, :4] = 255
    named, drawn = perfect(labels, [0, 1], 2)
    drawn[:, :, :4] *= -1
    assert set_loss(named, drawn, truths(*label_masks(known, 2, 2))) < 6
    assert set_loss(named, drawn, truths(*label_masks(labels, 2, 2))) > 10


def test_logits_are_the_queries_classes_weighed_by_their_masks() -> None:
    net = build("mask2former", dims=2, in_channels=1, classes=2, size="tiny").eval()
    labels = torch.randint(0, 2, (1, 8, 8))
    named, drawn = perfect(labels, [1, 0, 2, 2], 2)
    net.decode = lambda *_: ([named], [drawn])  # type: ignore[method-assign]
    net.pixels.forward = lambda _: (None, None)  # type: ignore[method-assign]
    with torch.no_grad():
        logits = torch.nn.functional.avg_pool2d(net(torch.randn(1, 1, 32, 32)), 4)
    assert torch.equal(logits.argmax(dim=1), labels)


def test_overlapping_classes_are_refused_with_a_remedy() -> None:
    net = build("mask2former", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(1, 1, 32, 32))
    with pytest.raises(UserError, match="gives each voxel one class, but the classes overlap"):
        net.loss(outputs, torch.zeros(1, 2, 32, 32))


@pytest.mark.parametrize("dims", [2, 3])
def test_heads_start_to_look_in_directions_of_their_own(dims: int) -> None:
    rays = directions(8, dims)
    torch.testing.assert_close(rays.abs().amax(dim=1), torch.ones(8))
    apart = torch.cdist(rays, rays) + 9 * torch.eye(8)
    assert apart.min() > 0.4


@pytest.mark.parametrize("dims", [2, 3])
def test_deformable_attention_without_offsets_reads_each_grid_at_the_token_itself(dims: int) -> None:
    layer = DeformableAttention(dims, 4, 2, levels=2, points=1)
    torch.nn.init.zeros_(layer.offsets.bias)
    size = (4,) * dims
    source = torch.randn(1, 2 * 4**dims, 4)
    found = layer(source[:, : 4**dims], references([size]), source, [size, size])
    expected = layer.out(layer.value(source).unflatten(1, (2, -1)).mean(dim=1))
    torch.testing.assert_close(found, expected)


def test_deformable_attention_is_that_of_the_transformers_library() -> None:
    pytest.importorskip("transformers")
    from transformers.models.mask2former import modeling_mask2former as library

    theirs = library.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(8, 2, 3, 4)
    ours = DeformableAttention(2, 8, 2, 3, 4)
    pairs = {"sampling_offsets": "offsets", "attention_weights": "weights", "value_proj": "value"}
    for source, to in {**pairs, "output_proj": "out"}.items():
        torch.nn.init.normal_(getattr(theirs, source).weight)
        getattr(ours, to).load_state_dict(getattr(theirs, source).state_dict())
    sizes = [(2, 3), (4, 6), (8, 12)]
    x, y = torch.randn(2, 126, 8), torch.randn(2, 126, 8)
    places = references(sizes)
    expected, _ = theirs(
        x,
        encoder_hidden_states=y,
        reference_points=places[None, :, None].expand(2, -1, 3, -1),
        spatial_shapes_list=sizes,
    )
    torch.testing.assert_close(ours(x, places, y, sizes), expected, rtol=1e-4, atol=1e-5)


def test_position_codes_in_the_plane_are_those_of_detr() -> None:
    height, width, channels = 3, 5, 8
    codes = sine_positions((height, width), channels)
    for channel in range(channels):
        n, axis = (height, 0) if channel < 4 else (width, 1)
        place = torch.arange(1, n + 1) / n * 2 * torch.pi
        angle = place / 10000 ** (2 * (channel % 4 // 2) / 4)
        wave = angle.sin() if channel % 2 == 0 else angle.cos()
        expected = wave[:, None].expand(3, 5) if axis == 0 else wave.expand(3, 5)
        torch.testing.assert_close(codes[channel], expected, rtol=1e-4, atol=1e-5)
