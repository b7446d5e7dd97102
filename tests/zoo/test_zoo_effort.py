"""What `medseg show` says about operations and ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo import describe
from medseg.zoo.build import find
from medseg.zoo.effort import count, fitting, flops_of, parse_input


class OneLayer(nn.Module):
    divisor, minimum = (8, 8), (32, 16)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_convolution_counts_two_operations_a_weight_and_place() -> None:
    net = OneLayer().to("meta").train()
    assert flops_of(net, (1, 3, 10, 20)) == 2 * 5 * 5 * 3 * 4 * 10 * 20
    assert net.training


def test_sizes_are_rounded_up_to_what_the_network_takes() -> None:
    assert fitting((20, 17), OneLayer()) == (32, 24)


def test_twice_the_side_takes_four_times_the_operations_of_a_plane() -> None:
    small, large = (count(find("linknet"), "tiny", (1, 3, n, n)) for n in (64, 128))
    assert large["flops"] == pytest.approx(4 * small["flops"], rel=0.02)
    assert large["params"] == small["params"]


def test_a_form_that_cannot_be_built_is_not_counted() -> None:
    assert count(find("3d-u-net"), "tiny", (1, 1, 64, 64)) is None


@pytest.mark.parametrize("text", ["1,3,256", "a,b,c,d", "1,3,0,4", "1,1,2,3,4,5"])
def test_a_wrong_input_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"no input size(.|\n)*1,3,256,256"):
        parse_input(text)
    assert parse_input("1,3,256x200") == (1, 3, 256, 200)


def test_the_card_shows_operations_for_the_input_that_was_asked_for() -> None:
    facts = describe.describe("enet", shape=(1, 3, 64, 128))
    assert {form.split()[1] for form in facts["effort"]} == {"2D"}
    assert facts["effort"]["tiny 2D"]["input"] == [1, 3, 64, 128]
    assert "input 1,3,64,128" in describe.text_of(facts)
    with pytest.raises(UserError, match="is not 3D"):
        describe.describe("enet", 3, (1, 3, 64, 64))


def test_the_card_shows_the_rank_of_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ranks.json"
    facts = {"rank": 2, "dice": 0.5, "miou": 0.4, "size": "small", "learns": False}
    file.write_text(json.dumps({"camvid": {"of": 9, "systems": {"enet": facts}}}))
    monkeypatch.setattr(describe, "RANKS", file)
    lines = "\n".join(describe._bench_lines(describe.ranks_of("enet")))
    assert (
        "camvid         rank 2 of 9, size small: Dice 0.500, mIoU 0.400, does not beat the baselines" in lines
    )
    assert describe.ranks_of("linknet") == {}
    assert "not measured yet" in "\n".join(describe._bench_lines({}))
