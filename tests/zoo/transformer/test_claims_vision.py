"""What UNETR, DPT and the transformer with a CBAM decoder claim, and what their oracles say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.encoders.vit import VITS, VisionTransformer
from medseg.zoo.outputs import Outputs

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def sees(net: nn.Module, x: torch.Tensor, place: tuple[int, ...], far: tuple[int, ...]) -> float:
    """How much the logits at a place change with the voxel at another."""
    x = x.requires_grad_()
    net(x)[(0, 0, *place)].backward()
    return float(x.grad[(0, 0, *far)].abs())  # type: ignore[index]


@pytest.mark.parametrize("name", ["unetr", "dpt", "transformer-cbam"])
def test_each_corner_sees_the_opposite_one(name: str) -> None:
    net = build(name, dims=2, in_channels=1, classes=2, size="tiny").eval()
    assert sees(net, torch.randn(1, 1, 128, 128), (2, 2), (120, 120)) > 0


def test_unetr_is_what_monai_computes_at_the_size_it_is_built_for() -> None:
    net = build("unetr", dims=3, in_channels=2, classes=3, size="tiny").eval()
    x = torch.randn(1, 2, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net.net(x))


def test_unetr_takes_other_sizes_by_interpolated_position_codes() -> None:
    net = build("unetr", dims=2, in_channels=1, classes=2, size="tiny").eval()
    with torch.no_grad():
        assert net(torch.randn(1, 1, 48, 80)).shape == (1, 2, 48, 80)


def test_unetr_refuses_an_image_that_patches_do_not_fill() -> None:
    with pytest.raises(UserError, match="image is 40; it is a multiple of 16"):
        build("unetr", dims=2, in_channels=1, classes=2, image=40)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_transformer_keeps_one_resolution_at_all_depths(dims: int) -> None:
    encoder = VisionTransformer(dims, 1, VITS["vit-tiny"], (0, 3))
    first, last = encoder(torch.randn(1, 1, *(32,) * dims))
    assert first.shape == last.shape == (1, 1 + 2**dims, 12)


def test_dpt_reassembles_four_resolutions_and_tells_each_what_the_whole_image_knows() -> None:
    net = build("dpt", dims=2, in_channels=1, classes=2, size="tiny").eval()
    tokens = torch.randn(1, 5, 12)
    maps = [f(tokens, (2, 2)) for f in net.reassemble]
    assert [m.shape[2] for m in maps] == [8, 4, 2, 1]
    other = tokens.clone()
    other[:, 0] += 1.0
    assert all(not torch.allclose(f(other, (2, 2)), m) for f, m in zip(net.reassemble, maps, strict=True))


def test_dpt_trains_the_last_fusion_but_one() -> None:
    net = build("dpt", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 32, 32))
    assert isinstance(outputs, Outputs)
    assert outputs.auxiliary_weights == (0.2,)


def test_dpt_of_the_transformers_library_has_the_same_logits() -> None:
    library = pytest.importorskip("transformers")
    config = library.DPTConfig(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48, image_size=32,
        patch_size=16, num_channels=2, is_hybrid=False, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 6, 8, 8], fusion_hidden_size=4, use_batch_norm_in_fusion_residual=True,
        use_auxiliary_head=False, num_labels=3, layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, readout_type="project",
    )  # fmt: skip
    theirs = library.DPTForSemanticSegmentation(config).eval()
    ours = build("dpt", dims=2, in_channels=2, classes=3, size="tiny").eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_(std=0.2)
        copy_dpt(theirs, ours)
        x = torch.randn(1, 2, 32, 32)
        expected = nn.functional.interpolate(theirs(x).logits, (32, 32), mode="bilinear", align_corners=True)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def copy_dpt(theirs: nn.Module, ours: nn.Module) -> None:
    """All weights of the transformers library's DPT into ours, module by module."""
    embeddings, layers = theirs.dpt.embeddings, theirs.dpt.encoder.layer
    ours.encoder.embed.load_state_dict(embeddings.patch_embeddings.projection.state_dict())
    ours.encoder.places.copy_(embeddings.position_embeddings)
    ours.encoder.whole.copy_(embeddings.cls_token)
    for mine, block in zip(ours.encoder.blocks, layers, strict=True):
        inner = block.attention.attention
        for name in ("weight", "bias"):
            parts = [getattr(part, name) for part in (inner.query, inner.key, inner.value)]
            getattr(mine.attention.query_key_value, name).copy_(torch.cat(parts))
        pairs = [
            (mine.attention.out, block.attention.output.dense),
            (mine.norm1, block.layernorm_before),
            (mine.norm2, block.layernorm_after),
            (mine.mlp[0], block.intermediate.dense),
            (mine.mlp[2], block.output.dense),
        ]
        for to, source in pairs:
            to.load_state_dict(source.state_dict())
    stage = theirs.neck.reassemble_stage
    for i, mine in enumerate(ours.reassemble):
        mine.read[0].load_state_dict(stage.readout_projects[i][0].state_dict())
        mine.project.load_state_dict(stage.layers[i].projection.state_dict())
        mine.resample.load_state_dict(stage.layers[i].resize.state_dict())
        mine.out.load_state_dict(theirs.neck.convs[i].state_dict())
    for mine, layer in zip(ours.fuse, theirs.neck.fusion_stage.layers, strict=True):
        mine.out.load_state_dict(layer.projection.state_dict())
        units = [(mine.level, layer.residual_layer1), (mine.refine, layer.residual_layer2)]
        for to, source in units[mine.level is None :]:
            to.first[0].load_state_dict(source.convolution1.state_dict())
            to.first[1].load_state_dict(source.batch_norm1.state_dict())
            to.second[0].load_state_dict(source.convolution2.state_dict())
            to.second[1].load_state_dict(source.batch_norm2.state_dict())
    head = theirs.head.head
    ours.head[0][0].load_state_dict(head[0].state_dict())
    ours.head[0][1].load_state_dict(head[1].state_dict())
    ours.head[2].load_state_dict(head[4].state_dict())


def test_the_decoder_weighs_channels_and_places_after_each_stage() -> None:
    net = build("transformer-cbam", dims=2, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        weighed = net(x)
        assert len(net.head.gates) == 3
        for gate in net.head.gates:
            gate.forward = lambda t: t  # type: ignore[method-assign]
        assert not torch.allclose(net(x), weighed)


def test_an_unknown_vision_transformer_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no vision transformer 'vit-x'"):
        build("dpt", dims=2, in_channels=1, classes=2, vit="vit-x")
