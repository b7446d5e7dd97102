"""What the transformers claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import UserError
from medseg.zoo.build import build, find, parameter_count
from medseg.zoo.encoders.mit import MIXES, EfficientAttention, MixTransformer


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("mix", "millions"), [("b0", 3.72), ("b1", 13.68), ("b2", 27.36), ("b3", 47.24), ("b4", 64.01)]
)
def test_all_sizes_of_segformer_have_the_counted_weights(mix: str, millions: float) -> None:
    width = 256 if mix in ("b0", "b1") else 768
    found = parameter_count(find("segformer"), dims=2, in_channels=3, classes=19, mix=mix, width=width)
    assert found == pytest.approx(millions * 1e6, rel=0.002)


@pytest.mark.parametrize("dims", [2, 3])
def test_efficient_attention_reads_a_shrunk_map(dims: int) -> None:
    attention = EfficientAttention(dims, 4, 2, 2)
    x = torch.randn(1, 4, *(4,) * dims)
    source = attention.norm(attention.reduce(x).flatten(2).transpose(1, 2))
    assert source.shape[1] == 2**dims
    query = attention.query(x.flatten(2).transpose(1, 2))
    key, value = attention.key(source), attention.value(source)
    heads = []
    for h in range(2):
        part = slice(2 * h, 2 * h + 2)
        weights = torch.softmax(query[0, :, part] @ key[0, :, part].T / 2**0.5, dim=1)
        heads.append(weights @ value[0, :, part])
    expected = attention.out(torch.cat(heads, dim=1)).T.reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_zero_padding_tells_position_without_any_code() -> None:
    encoder = MixTransformer(2, 1, MIXES["tiny"]).eval()
    with torch.no_grad():
        flat = encoder(torch.ones(1, 1, 64, 64))[0][0]
    assert not torch.allclose(flat[:, 0, 0], flat[:, 8, 8], atol=1e-4)
    assert not any("position" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("side", [32, 96])
def test_any_size_works_with_the_same_weights(side: int) -> None:
    net = build("segformer", dims=2, in_channels=1, classes=2, size="tiny").eval()
    assert net(torch.randn(1, 1, side, side)).shape[2:] == (side, side)


def test_an_unknown_mix_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no Mix Transformer 'b6'"):
        build("segformer", dims=2, in_channels=1, classes=2, mix="b6")
