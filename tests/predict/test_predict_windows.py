"""Windows: tiling and weights as nnU-Net has them, and blending that forgets nothing and holds little."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.core.errors import UserError
from medseg.model.turned import Turned, axes_of
from medseg.predict.engines.eager import Eager
from medseg.predict.mirrors import Mirrors
from medseg.predict.windows import Cut, importance, predict_logits, shares, stream_logits, window_starts

ORACLES = Path(__file__).parents[1] / "oracles"
TABLE = np.load(ORACLES / "predict_windows.npz")


def oracle_net() -> torch.nn.Module:
    net = torch.nn.Sequential(
        torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.LeakyReLU(0.01), torch.nn.Conv3d(4, 3, 3, padding=1)
    )
    for layer, name in ((net[0], "net_a"), (net[2], "net_b")):
        layer.weight.data = torch.from_numpy(TABLE[f"{name}_weight"])
        layer.bias.data = torch.from_numpy(TABLE[f"{name}_bias"])
    return net.eval()


def test_windows_lie_where_nnunet_puts_them() -> None:
    for row in json.loads((ORACLES / "tile_positions.json").read_text()):
        cut = Cut(tuple(row["tile"]), 1 - row["step"])
        assert list(cut.padded(row["image"])) == row["padded_image"]
        assert list(cut.below(row["image"])) == row["pad_below"]
        assert cut.starts(row["image"]) == row["steps"]


def test_weights_are_those_of_nnunet() -> None:
    table = np.load(ORACLES / "importance.npz")
    assert np.abs(importance((96, 80)) - table["96x80"]).max() < 1e-6
    assert np.abs(importance((40, 56, 40))[:, :, 20] - table["40x56x40_middle"]).max() < 1e-6


def test_weights_are_those_of_nnunet_in_the_whole_table(shared_data: Path) -> None:
    path = shared_data.parent / "oracles" / "gaussian_importance.npz"
    if not path.exists():
        pytest.skip("the full table is not here")
    for name, theirs in np.load(path).items():
        shape, _, kind = name.partition("_")
        weights = importance([int(n) for n in shape.split("x")])
        # The table's float16 raises the smallest weights to what it can hold.
        firm = theirs > (6e-5 if kind == "f16" else 0)
        tolerance = 5e-4 if kind == "f16" else 1e-6
        assert weights.shape == theirs.shape
        assert (np.abs(weights - theirs) <= tolerance * np.maximum(1, weights))[firm].all(), name


@pytest.mark.parametrize("flips", [(), (0, 1, 2)])
@pytest.mark.parametrize(("case", "patch"), [("sw0", (16, 20, 12)), ("sw1", (16, 20, 12))])
def test_blended_logits_are_those_of_nnunet(
    case: str, patch: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    image = torch.from_numpy(TABLE[f"{case}_image"])
    ours = predict_logits(oracle_net(), image, patch, 3, mirrors=Mirrors(flips)).numpy()
    theirs = TABLE[f"{case}_logits_mirror{int(bool(flips))}"].astype(np.float32)
    cut = Cut(patch)
    weights = 1.0
    for axis, (size, starts) in enumerate(zip(cut.padded(image.shape[1:]), cut.starts(image.shape[1:]))):
        total = np.zeros(size)
        for start in starts:
            total[start : start + patch[axis]] += importance((patch[axis],)) / 10
        low = cut.below(image.shape[1:])[axis]
        weights = np.multiply.outer(weights, total[low : low + image.shape[1 + axis]])
    firm = 10 * weights >= 1e-3
    # The reference sums in float16: where weights are tiny its logits are whole numbers.
    assert np.abs(ours - theirs)[:, firm].max() <= 0.03
    assert np.abs(ours - theirs)[:, ~firm].max(initial=0) <= 0.6
    best = np.sort(ours, axis=0)
    differs = (ours.argmax(0) != theirs.argmax(0)) & firm
    assert (best[-1] - best[-2])[differs].max(initial=0) < 0.05


@pytest.mark.parametrize("size", [(33, 20, 47), (20, 61, 18), (9, 40, 40)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
def test_a_network_that_looks_at_one_voxel_gets_its_own_answer_back(
    size: tuple[int, ...], overlap: float
) -> None:
    net = torch.nn.Conv3d(1, 2, 1).eval()
    image = torch.randn(1, *size)
    whole = net(image[None])[0].detach()
    logits = predict_logits(net, image, (16, 16, 16), 2, overlap=overlap, batch_size=3)
    assert logits.shape == (2, *size)
    assert torch.allclose(logits, whole, atol=1e-5)


def test_slabs_follow_each_other_without_gaps_along_the_longest_way() -> None:
    net = torch.nn.Conv3d(1, 2, 1).eval()
    image = torch.randn(1, 20, 70, 24)
    seen = [(s.lead, s.start, s.stop) for s in stream_logits(Eager(net), image, Cut((16, 16, 16)), 2)]
    assert {lead for lead, _, _ in seen} == {1}
    assert seen[0][1] == 0
    assert seen[-1][2] == 70
    assert all(a[2] == b[1] for a, b in pairwise(seen))


def test_photographs_smaller_and_larger_than_a_window() -> None:
    net = torch.nn.Conv2d(3, 4, 1).eval()
    for size in ((10, 50), (45, 33), (16, 16)):
        image = torch.randn(3, *size)
        logits = predict_logits(net, image, (16, 16), 4)
        assert torch.allclose(logits, net(image[None])[0].detach(), atol=1e-5)


def test_sizes_that_a_network_cannot_take_are_padded_and_cut_again() -> None:
    class Pooled(torch.nn.Module):
        divisor = (8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[2] % 8 == 0
            assert x.shape[3] % 4 == 0
            return x * 2

    image = torch.randn(1, 13, 27)
    assert torch.allclose(predict_logits(Pooled(), image, (13, 18), 1), image * 2, atol=1e-5)


def test_a_network_trained_the_other_way_sees_the_windows_of_the_mirrored_image() -> None:
    """As an imported one does: images in its own frame and in ours give the same logits, rounded starts included."""
    net = oracle_net()
    # Steps of 10.5 voxels that are rounded, an even window, and an axis padded by an odd number of voxels.
    image = torch.randn(2, 45, 9, 31, generator=torch.Generator().manual_seed(3))
    axes, patch = (0, 1), (24, 12, 16)
    own = predict_logits(net, image.flip(1, 2), patch, 3).flip(1, 2)
    out = torch.empty_like(own)
    cut = Cut(patch, turned=axes)
    for slab in stream_logits(Eager(Turned(net, axes)), image, cut, 3):
        out.narrow(slab.lead + 1, slab.start, slab.stop - slab.start).copy_(slab.logits)
    assert torch.allclose(out, own, atol=1e-5)
    other = predict_logits(Turned(net, axes), image, patch, 3)
    assert (other - own).abs().max() > 1e-3, "the layout of the windows shows"
    assert axes_of(torch.nn.ModuleList([Turned(net, axes), net])) == axes
    assert axes_of(net) == axes_of(None) == ()


def test_mirroring_averages_all_combinations() -> None:
    net = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
    image = torch.randn(1, 12, 12)
    by_hand = sum(
        net(image.flip(axes)[None])[0].flip(axes) if axes else net(image[None])[0]
        for axes in ((), (1,), (2,), (1, 2))
    )
    assert torch.allclose(
        predict_logits(net, image, (12, 12), 1, mirrors=Mirrors((0, 1))), by_hand.detach() / 4, atol=1e-5
    )


def test_half_precision_gives_float32_logits_near_the_full_ones() -> None:
    net = torch.nn.Conv3d(1, 2, 3, padding=1).eval()
    image = torch.randn(1, 20, 20, 20)
    full = predict_logits(net, image, (16, 16, 16), 2)
    half = predict_logits(net, image, (16, 16, 16), 2, autocast=torch.bfloat16)
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.05


def test_shares_of_a_voxel_sum_to_one() -> None:
    starts = window_starts((61,), (16,), 0.5)[0]
    total = np.zeros(61)
    for start, share in zip(starts, shares(61, 16, starts)):
        total[start : start + 16] += share
    assert np.allclose(total, 1, atol=1e-6)


def test_a_network_with_another_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected \(3, 8, 8\)"):
        predict_logits(torch.nn.Conv2d(1, 2, 1), torch.zeros(1, 8, 8), (8, 8), 3)


def test_the_progress_counts_every_window() -> None:
    ticks: list[int] = []
    cut = Cut((16, 16), batch_size=4)
    image = torch.zeros(1, 40, 50)
    for _ in stream_logits(Eager(torch.nn.Conv2d(1, 1, 1)), image, cut, 1, ticks.append):
        pass
    assert sum(ticks) == cut.count((40, 50)) == 24


def test_sums_in_float16_take_half_the_memory_and_keep_the_labels() -> None:
    torch.manual_seed(0)
    net = torch.nn.Conv3d(1, 6, 3, padding=1).eval()
    image = torch.randn(1, 40, 36, 30)
    full = predict_logits(net, image, (16, 16, 16), 6)
    kinds = set()
    for slab in stream_logits(Eager(net), image, Cut((16, 16, 16), half_sums=True), 6):
        kinds.add(slab.logits.dtype)
        wanted = full.narrow(slab.lead + 1, slab.start, slab.stop - slab.start)
        assert (slab.logits.float() - wanted).abs().max() < 0.004
        assert (slab.logits.float().argmax(0) == wanted.argmax(0)).float().mean() > 0.995
    assert kinds == {torch.float16}


def test_a_margin_moves_the_image_away_from_the_ends_of_its_windows() -> None:
    """A network that is blind within two voxels of a window's end sees the whole image all the same."""

    class BlindAtItsEnds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = torch.zeros_like(x)
            seen[..., 2:-2, 2:-2] = x[..., 2:-2, 2:-2]
            return torch.cat([0.5 - seen, seen - 0.5], dim=1)

    image = torch.ones(1, 20, 9)
    plain = predict_logits(BlindAtItsEnds(), image, (12, 12), 2)
    wide = predict_logits(BlindAtItsEnds(), image, (12, 12), 2, margin=2)
    assert (plain[1, 0] < 0).all()
    assert wide.shape == plain.shape
    assert (wide[1] > 0).all()


def test_windows_of_one_voxel_are_never_computed_twice() -> None:
    assert window_starts((5,), (1,), 0.5) == [[0, 1, 2, 3, 4]]
    assert window_starts((1,), (1,), 0.5) == [[0]]
