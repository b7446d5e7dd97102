"""Networks that are MONAI's own: what medseg says of them is what they do."""

from __future__ import annotations

import copy

import pytest
import torch

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.outputs import Outputs

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def test_segresnet_adds_its_skips_rather_than_joining_them() -> None:
    net = build("segresnet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        deepest, downs = net.net.encode(x)
        downs.reverse()
        without = net.net.decode(deepest, [downs[0], *(torch.zeros_like(d) for d in downs[1:])])
        assert not torch.allclose(net(x), without), "the finer features count"
        assert [d.shape[1] for d in downs] == [32, 16, 8], "sums keep the channels of each level"


def test_mednext_supervises_its_levels_in_training_only() -> None:
    net = build("mednext", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(1, 1, 32, 32))
    assert isinstance(outputs, Outputs)
    assert [a.shape[2] for a in outputs.auxiliary] == [16, 8, 4, 2]
    assert outputs.auxiliary_weights == (0.5, 0.25, 0.125, 0.0625)
    assert isinstance(net.eval()(torch.randn(1, 1, 32, 32)), torch.Tensor)


@pytest.mark.parametrize("name", ["mednext", "swin-unetr"])
def test_checkpointing_keeps_less_and_gives_the_same_gradients(name: str) -> None:
    x = torch.randn(2, 1, 32, 32)

    def trained(checkpointing: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
        torch.manual_seed(1)
        net = build(name, dims=2, in_channels=1, classes=2, size="tiny", checkpointing=checkpointing).train()
        net = copy.deepcopy(net)  # as an average of weights does: the copy computes with its own weights
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            out = net(x)
        main = out if isinstance(out, torch.Tensor) else out.main
        main.square().mean().backward()
        return main, {n: p.grad for n, p in net.named_parameters() if p.grad is not None}, sum(kept)

    (plain, gradients, all_kept), (again, same, kept) = trained(False), trained(True)
    assert torch.equal(plain, again)
    assert gradients.keys() == same.keys()
    assert all(torch.allclose(gradients[n], same[n], atol=1e-6) for n in gradients)
    assert kept < {"mednext": 0.5, "swin-unetr": 0.9}[name] * all_kept


def test_a_larger_kernel_of_mednext_sees_further() -> None:
    def view(kernel: int) -> int:
        net = build("mednext", dims=2, in_channels=1, classes=1, size="tiny", kernel=kernel).eval()
        stage = net.net.enc_stages[0]
        x = torch.randn(1, 4, 15, 15, requires_grad=True)
        with torch.no_grad():
            normed = [m for m in stage.modules() if isinstance(m, torch.nn.GroupNorm)]
        for norm in normed:
            norm.forward = lambda t: t  # type: ignore[method-assign]
        stage(x)[0, :, 7, 7].sum().backward()
        seen = (x.grad[0].abs().sum(dim=0) > 0).nonzero()
        return int(seen.amax() - seen.amin()) + 1

    assert (view(3), view(5)) == (3, 5)


def test_an_unknown_variant_names_those_there_are() -> None:
    with pytest.raises(UserError, match="no variant 'xl'; there are s, b, m, l"):
        build("mednext", dims=2, in_channels=1, classes=2, variant="xl")


@pytest.mark.parametrize("dims", [2, 3])
def test_swin_attends_inside_windows_and_across_them_by_the_shift_of_every_second_block(dims: int) -> None:
    net = build("swin-unetr", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    stage = net.net.swinViT.layers1[0]
    assert tuple(stage.window_size) == (7,) * dims
    assert len(stage.blocks) == 2

    def rows_seen() -> list[int]:
        x = torch.randn(1, 12, *(14,) * dims, requires_grad=True)
        stage(x)[
            (0, slice(None), *(2,) * dims)
        ].sum().backward()  # made of the positions 4 and 5 of each axis
        return (x.grad[0].abs().flatten(2).sum(dim=(0, 2)) > 0).nonzero().flatten().tolist()

    assert rows_seen() == list(range(14))
    stage.blocks[1].shift_size = (0,) * dims
    assert rows_seen() == list(range(7)), "without the shift a window is all there is"
