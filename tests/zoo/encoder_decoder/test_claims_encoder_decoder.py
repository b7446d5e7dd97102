"""What each encoder-decoder paper claims of its mechanism, shown on a small case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.zoo.build import build, find, parameter_count
from medseg.zoo.encoder_decoder.res_u_net import ResidualUnit
from medseg.zoo.encoder_decoder.v_net import ResidualStage
from medseg.zoo.layers.conv import Style
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small(name: str, dims: int = 2, classes: int = 2, **arguments: object) -> nn.Module:
    return build(name, dims=dims, in_channels=1, classes=classes, size="tiny", **arguments).eval()


# --- U-Net --------------------------------------------------------------------------------------------------------


def test_the_unpadded_u_net_has_the_sizes_of_figure_1() -> None:
    net = build("u-net", dims=2, in_channels=1, classes=2, features=(2, 2, 2, 2, 2), padding="valid").eval()
    assert net.margin == 92
    assert net.input_size(388) == (572, 388)
    with torch.no_grad():
        assert net(torch.randn(1, 1, 572, 572)).shape == (1, 2, 388, 388)


def test_tiles_of_the_unpadded_u_net_are_seamless() -> None:
    net = small("u-net", padding="valid", norm="none")
    margin = net.margin
    image = torch.randn(1, 1, 68 + 2 * margin, 68 + 2 * margin)
    entered, left = net.input_size(32)
    with torch.no_grad():
        whole = net(image)
        tile = net(image[..., 16 : 16 + entered, 16 : 16 + entered])
    torch.testing.assert_close(tile, whole[..., 16 : 16 + left, 16 : 16 + left])


def test_the_mirrored_border_gives_the_unpadded_u_net_its_whole_image() -> None:
    mirrored = small("u-net", padding="mirror", norm="none")
    valid = small("u-net", padding="valid", norm="none")
    valid.load_state_dict(mirrored.state_dict())
    image = torch.randn(1, 1, 36, 30)
    margins = (*mirrored.border(30), *mirrored.border(36))
    by_hand = nn.functional.pad(image, margins, mode="reflect")
    with torch.no_grad():
        whole = mirrored(image)
        assert whole.shape[2:] == image.shape[2:]
        torch.testing.assert_close(whole, valid(by_hand)[..., :36, :30])


def test_skips_bring_single_voxels_through_a_u_net() -> None:
    net = small("u-net", norm="none")
    for up in net.body.up:
        nn.init.zeros_(up.weight)
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    logits = net(image + torch.rand(1, 1, 16, 16))
    logits[0, 0, 8, 8].backward()
    seen = image.grad[0, 0].abs() > 0
    assert seen[8, 8]
    assert int(seen.sum()) <= 9 * 9, "only the finest skip is left, four 3x3 convolutions wide"


@pytest.mark.parametrize(
    ("name", "dims", "down", "up"),
    [("3d-u-net", 3, "analysis", "synthesis"), ("res-u-net", 2, "encoder", "decoder")],
)
def test_each_stage_up_reads_the_features_of_its_size_on_the_way_down(
    name: str, dims: int, down: str, up: str
) -> None:
    net = build(name, dims=dims, in_channels=1, classes=2, size="tiny").eval()
    left: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    for stage in getattr(net, down):
        stage.register_forward_hook(lambda _m, _i, out: left.append(out))
    for stage in getattr(net, up):
        stage.register_forward_hook(lambda _m, given, _o: read.insert(0, given[0]))
    net(torch.randn(1, 1, *(16,) * dims))
    assert len(read) == len(left) - 1 == 2
    for skip, joined in zip(left, read, strict=False):
        assert torch.equal(joined[:, -skip.shape[1] :], skip)


# --- 3D U-Net -----------------------------------------------------------------------------------------------------


def test_the_3d_u_net_has_the_published_weights_to_the_last_one() -> None:
    with torch.device("meta"):
        net = build("3d-u-net", dims=3, in_channels=3, classes=3)
    norms = sum(p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters())
    assert sum(p.numel() for p in net.parameters()) - norms == 19_069_955


def test_the_3d_u_net_doubles_channels_before_it_pools() -> None:
    with torch.device("meta"):
        net = build("3d-u-net", dims=3, in_channels=1, classes=2)
    widths = [[conv[0].out_channels for conv in stage] for stage in net.analysis]
    assert widths == [[32, 64], [64, 128], [128, 256], [256, 512]]


def test_a_stem_of_3d_u_net_folds_voxels_and_still_answers_for_each() -> None:
    plain, folded = (
        build("3d-u-net", dims=3, in_channels=1, classes=2, size="tiny", stem=n).eval() for n in (1, 2)
    )
    assert folded.divisor == tuple(2 * d for d in plain.divisor)
    seen = []
    folded.analysis[0].register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    size = [2 * d for d in folded.divisor]
    assert folded(torch.randn(1, 1, *size)).shape == (1, 2, *size)
    assert seen == [(1, 8, *(n // 2 for n in size))]


# --- V-Net --------------------------------------------------------------------------------------------------------


def test_a_v_net_stage_learns_a_residual() -> None:
    stage = ResidualStage(2, 4, 2, Style("batch", "elu", bias=False)).eval()
    for convs in stage.convs:
        nn.init.zeros_(convs[0].weight)
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(stage(x, x), nn.functional.elu(x))


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        pytest.param("figure", [1, 2, 3, 3, 3], [3, 3, 2, 1], id="figure 2 of the paper"),
        pytest.param("authors", [1, 1, 2, 3, 3], [3, 2, 1, 1], id="the authors' released model"),
        pytest.param("paper", [1, 1, 2, 3, 2], [2, 2, 1, 1], id="the re-implementations"),
    ],
)
def test_the_stages_of_a_v_net_have_the_convolutions_of_its_source(
    size: str, down: list[int], up: list[int]
) -> None:
    with torch.device("meta"):
        net = build("v-net", dims=3, in_channels=1, classes=2, size=size)
    assert [1, *(len(part.stage.convs) for part in net.down)] == down
    assert [len(part.stage.convs) for part in net.up] == up
    kernels = {
        conv.kernel_size for m in net.modules() if isinstance(m, ResidualStage) for conv, *_ in m.convs
    }
    assert kernels == {(5, 5, 5)}


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_the_v_net_takes_any_number_of_channels(channels: int) -> None:
    net = build("v-net", dims=2, in_channels=channels, classes=2, size="tiny").eval()
    assert net(torch.randn(1, channels, 16, 16)).shape == (1, 2, 16, 16)


# --- UNet++ -------------------------------------------------------------------------------------------------------


def test_unet_plus_plus_can_be_pruned_to_each_of_its_heads() -> None:
    net = small("u-net-plus-plus", features=(4, 4, 4, 4)).train()
    for dropout in net.modules():
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
    x = torch.randn(2, 1, 16, 16)
    before = net(x)
    nn.init.normal_(net.column[3][0][0].weight)
    after = net(x)
    assert isinstance(before, Outputs)
    assert not torch.equal(before.main, after.main), "the deepest node counts for the last head"
    for one, other in zip(before.auxiliary, after.auxiliary, strict=True):
        assert torch.equal(one, other), "shallower heads do without it"


def test_every_node_of_unet_plus_plus_sees_all_earlier_ones_of_its_depth() -> None:
    net = small("u-net-plus-plus", features=(4, 8, 16, 32))
    inputs = {name: node[0][0].in_channels for name, node in net.node.items()}
    assert inputs == {"0_1": 8, "0_2": 12, "0_3": 16, "1_1": 16, "1_2": 24, "2_1": 32}


def test_unet_plus_plus_averages_its_heads_when_asked() -> None:
    last, mean = small("u-net-plus-plus"), small("u-net-plus-plus")
    mean.load_state_dict(last.state_dict())
    mean.average = True
    x = torch.randn(1, 1, 16, 16)
    nodes = last.grid(x)[1:]
    by_hand = torch.stack([head(node) for head, node in zip(last.heads, nodes, strict=True)]).mean(0)
    torch.testing.assert_close(mean(x), by_hand)
    torch.testing.assert_close(last(x), last.heads[-1](nodes[-1]))


def test_nodes_of_unet_plus_plus_computed_twice_learn_the_same_and_keep_less() -> None:
    x = torch.randn(2, 1, 16, 16)

    def trained(checkpointing: bool) -> tuple[torch.Tensor, dict, dict, int]:
        torch.manual_seed(1)
        net = small("u-net-plus-plus", norm="batch", dropout=0.5, checkpointing=checkpointing).train()
        kept: list[int] = []
        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            outputs = net(x)
        sum(o.square().mean() for o in (outputs.main, *outputs.auxiliary)).backward()
        means = {n: b for n, b in net.named_buffers() if "running" in n}
        return outputs.main, {n: p.grad for n, p in net.named_parameters()}, means, sum(kept)

    (plain, gradients, means, all_kept), (again, same, others, kept) = trained(False), trained(True)
    assert torch.equal(plain, again), "dropout falls on the same numbers"
    assert all(torch.allclose(gradients[n], same[n], atol=1e-6) for n in gradients)
    assert all(torch.allclose(means[n], others[n], atol=1e-6) for n in means), "a batch counts once"
    assert kept < all_kept / 2


# --- residual U-Net -----------------------------------------------------------------------------------------------


def test_the_main_path_of_the_residual_u_net_has_the_published_weights() -> None:
    with torch.device("meta"):
        net = build("res-u-net", dims=2, in_channels=3, classes=1)
    main = sum(p.numel() for n, p in net.named_parameters() if "shortcut" not in n)
    assert main == pytest.approx(7.8e6, rel=0.01)


def test_a_residual_unit_without_its_path_is_the_identity() -> None:
    unit = ResidualUnit(3, 4, 4, 1, "batch").eval()
    nn.init.zeros_(unit.path[-1].weight)
    nn.init.zeros_(unit.path[-1].bias)
    x = torch.randn(1, 4, 4, 4, 4)
    torch.testing.assert_close(unit(x.clone()), x)


# --- nnU-Net ------------------------------------------------------------------------------------------------------

PLANS = [
    # network, dims, inputs, classes, features, strides, kernels, parameters by the nnU-Net package
    ("nnunet-plain", 3, 1, 3, (32, 64, 128, 256), (1, 2, 2, 2), (3,) * 4, 5_603_177),
    ("nnunet-plain", 2, 1, 3, (32, 64, 128, 256), (1, 2, 2, 2), (3,) * 4, 1_928_489),
    ("nnunet-plain", 3, 4, 4, (32, 64, 128, 256, 320, 320), (1, 2, 2, 2, 2, 2), (3,) * 6, 31_199_796),
    ("nnunet-resenc", 3, 1, 3, (32, 64, 128, 256), (1, 2, 2, 2), (3,) * 4, 25_895_593),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p[0]}-{p[1]}D-{p[-1]}")
def test_a_planned_network_has_the_weights_that_nnunet_counts(plan: tuple) -> None:
    name, dims, inputs, classes, features, strides, kernels, count = plan
    topology = {"features_per_stage": features, "strides": strides, "kernel_sizes": kernels}
    assert parameter_count(find(name), dims=dims, in_channels=inputs, classes=classes, **topology) == count


def test_all_plans_of_the_oracle_are_met(shared_data: Path) -> None:
    folder = shared_data.parent / "oracles"
    if not (folder / "parameter_counts.json").is_file():
        pytest.skip("no table of plans beside the real images")
    plans = json.loads((folder / "nnunet_plans.json").read_text())["plans"]
    for row in json.loads((folder / "parameter_counts.json").read_text()):
        topology = planned(plans, row)
        name = "nnunet-plain" if row["network"] == "PlainConvUNet" else "nnunet-resenc"
        dims = len(row["deep_supervision_output_shapes"][0]) - 2
        with torch.device("meta"):
            net = build(
                name, dims=dims, in_channels=row["input_channels"], classes=row["num_classes"], **topology
            ).train()
            outputs = net(
                torch.zeros(1, row["input_channels"], *row["deep_supervision_output_shapes"][0][2:])
            )
        assert sum(p.numel() for p in net.parameters()) == row["parameters"], row["fingerprint"]
        shapes = [list(o.shape) for o in (outputs.main, *outputs.auxiliary)]
        assert shapes == row["deep_supervision_output_shapes"]


def planned(plans: list[dict], row: dict) -> dict:
    """The topology of the plan that a row of counts speaks of."""
    keys = ("fingerprint", "planner", "gpu_memory_target_gb")
    plan = next(p for p in plans if all(p[k] == row[k] for k in keys))
    found = plan["out"]["configurations"][row["configuration"]]
    return {
        "features_per_stage": found["features_per_stage"],
        "strides": found["strides"],
        "kernel_sizes": found["kernel_sizes"],
        "blocks_per_stage": found["blocks_encoder"],
        "decoder_convs": found["convs_decoder"],
    }


def test_axes_of_coarse_spacing_are_neither_pooled_nor_convolved() -> None:
    net = build(
        "nnunet-plain",
        dims=3,
        in_channels=1,
        classes=2,
        features_per_stage=(4, 8, 8),
        strides=(1, (1, 2, 2), (1, 2, 2)),
        kernel_sizes=((1, 3, 3),) * 3,
    ).eval()
    assert net.divisor == (1, 4, 4)
    for norm in [m for m in net.modules() if isinstance(m, nn.InstanceNorm3d)]:
        norm.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.randn(1, 1, 3, 8, 8)
    changed = x.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        assert torch.equal(net(x)[:, :, 1:], net(changed)[:, :, 1:])


def test_deep_supervision_halves_its_weights_and_drops_the_coarsest() -> None:
    net = build("nnunet-plain", dims=2, in_channels=1, classes=2, features_per_stage=(4, 4, 4, 4, 4)).train()
    outputs = net(torch.randn(2, 1, 32, 32))
    assert outputs.auxiliary_weights == (0.5, 0.25, 0.0)
    assert [tuple(a.shape[2:]) for a in outputs.auxiliary] == [(16, 16), (8, 8), (4, 4)]
    net.deep_supervision = False
    assert isinstance(net(torch.randn(2, 1, 32, 32)), torch.Tensor)


def test_residual_blocks_start_as_the_identity() -> None:
    net = build("nnunet-resenc", dims=2, in_channels=1, classes=2, size="tiny", blocks_per_stage=(2, 1, 1))
    second = net.encoder[0][1]
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(second(x), nn.functional.leaky_relu(x, 0.01))
