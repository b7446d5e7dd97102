"""What `medseg show` says about weights, operations and ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo import card_text, describe
from medseg.zoo.build import build, find
from medseg.zoo.catalog import CATALOG
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


@pytest.mark.parametrize(
    ("name", "shape", "form", "published", "source"),
    [
        ("segformer", (1, 3, 512, 512), {"classes": 150, "size": "b0"}, 8.4, "table 1 of the paper"),
        ("deeplab-v3plus", (1, 3, 513, 513), {"classes": 21}, 54.17, "the authors' model zoo"),
    ],
)
def test_operations_are_those_published(
    name: str, shape: tuple[int, ...], form: dict, published: float, source: str
) -> None:
    with torch.device("meta"):
        net = build(name, dims=len(shape) - 2, in_channels=shape[1], **form)
        pairs = flops_of(net, shape) / 2e9  # others count a multiplication and an addition as one
    assert pairs == pytest.approx(published, rel=0.02), source


def test_weights_that_are_handed_on_as_they_are_can_be_counted_and_stay_trainable() -> None:
    net = nn.ModuleDict({"norm": nn.LayerNorm(4)}).to("meta")
    net.queries = nn.Parameter(torch.zeros(2, 4, device="meta"))
    net.frozen = nn.Parameter(torch.zeros(1, device="meta"), requires_grad=False)
    net.forward = lambda x: net["norm"](net.queries) @ x
    assert flops_of(net, (4, 3)) == 2 * 2 * 4 * 3
    assert [p.requires_grad for p in (net.queries, net.frozen, net["norm"].weight)] == [True, False, True]


def test_twice_the_side_takes_four_times_the_operations_of_a_plane() -> None:
    small, large = (count(find("linknet"), "tiny", (1, 3, n, n)) for n in (64, 128))
    assert large["flops"] == pytest.approx(4 * small["flops"], rel=0.02)
    assert large["params"] == small["params"]


def test_a_form_that_cannot_be_built_is_not_counted() -> None:
    assert count(find("3d-u-net"), "tiny", (1, 1, 64, 64)) is None


@pytest.mark.parametrize("name", ["ema-net", "ha-net", "enc-net", "sac"])
def test_operations_are_counted_where_constants_lie_on_the_cpu(name: str) -> None:
    found = count(find(name), "tiny", (1, 3, 64, 64))
    assert found is not None
    assert found["flops"] > 1e6


def test_weights_are_counted_where_operations_depend_on_the_image() -> None:
    found = count(find("msci"), "tiny", (1, 3, 64, 64))
    assert found is not None
    assert found["params"] > 0
    assert found["flops"] is None


@pytest.mark.parametrize("text", ["1,3,256", "a,b,c,d", "1,3,0,4", "1,1,2,3,4,5"])
def test_a_wrong_input_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"no input size(.|\n)*1,3,256,256"):
        parse_input(text)
    assert parse_input("1,3,256x200") == (1, 3, 256, 200)


def test_the_card_shows_operations_for_the_input_that_was_asked_for() -> None:
    facts = describe.describe("enet", shape=(1, 3, 64, 128))
    assert list(facts["effort"]) == ["paper 2D"], "what a pipeline gets unasked"
    assert facts["effort"]["paper 2D"]["input"] == [1, 3, 64, 128]
    assert "input 1,3,64,128" in card_text.text_of(facts)
    tiny = describe.describe("enet", shape=(1, 3, 64, 128), size="tiny")["effort"]
    assert list(tiny) == ["tiny 2D"]
    assert tiny["tiny 2D"]["flops"] < facts["effort"]["paper 2D"]["flops"]


def test_a_wrong_form_or_size_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="is not 3D"):
        describe.describe("enet", 3, (1, 3, 64, 64))
    with pytest.raises(UserError, match=r"no 2D form(.|\n)*its forms: 3D"):
        describe.describe("3d-u-net", 2)
    with pytest.raises(UserError, match=r"no size 'smal'(.|\n)*did you mean small(.|\n)*paper, small, tiny"):
        describe.describe("enet", size="smal")


def test_kept_figures_are_what_counting_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = describe.describe("lenet-patch")
    monkeypatch.setattr(describe, "FIGURES", tmp_path / "none.json")
    counted = describe.describe("lenet-patch")
    assert json.loads(json.dumps(counted)) == kept
    assert kept["effort"]["paper 2D"] == {
        "input": [1, 3, 256, 256],
        "params": kept["counted"]["paper 2D"],
        "flops": kept["effort"]["paper 2D"]["flops"],
    }
    assert list(describe.describe("lenet-patch", 2)["counted"]) == ["paper 2D", "small 2D", "tiny 2D"]


def test_a_card_is_shown_without_torch() -> None:
    code = (
        "import sys; from medseg.cli import _main; _main(['show', 'mask2former']); "
        "print([name for name in ('torch', 'monai', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("card", [c for c in CATALOG if c.kind == "network"], ids=lambda c: c.name)
def test_a_card_is_read_at_eighty_columns(card) -> None:
    facts = describe.describe(card.name)
    text = card_text.text_of(facts)
    assert [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()] == []
    assert "Oracle: " in text
    assert set(facts["counted"]) == {f"{size} {d}D" for size in card.sizes for d in card.dims}
    if card.params:
        assert f"reference: {card.params:,} weights" in text


def test_the_published_count_stands_beside_ours_of_the_same_form() -> None:
    text = card_text.text_of(describe.describe("3d-u-net"))
    assert "reference: 19,069,955 weights (section 2 of the paper); here 19,0" in text
    assert "(dims=3, in_channels=3, classes=3)" in " ".join(text.split())
    assert "the layers of the paper's table 1 add up to 0.36 M" in card_text.text_of(
        describe.describe("enet")
    )


def test_a_classical_method_shows_its_arguments_and_no_weights() -> None:
    text = card_text.text_of(describe.describe("threshold-otsu"))
    assert "weights" not in text
    assert "arguments (system.arguments.NAME in a pipeline file)" in text


def test_the_card_shows_the_rank_of_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ranks.json"
    facts = {"rank": 2, "dice": 0.5, "miou": 0.4, "size": "small", "learns": False}
    file.write_text(json.dumps({"camvid": {"of": 9, "systems": {"enet": facts}}}))
    monkeypatch.setattr(describe, "RANKS", file)
    lines = card_text._bench_lines(describe.ranks_of("enet"))
    assert [line.strip() for line in lines[2:]] == [
        "camvid         rank 2 of 9, size small: Dice 0.500, mIoU 0.400",
        "does not beat the baselines",
    ]
    assert describe.ranks_of("linknet") == {}
    assert "not measured yet" in "\n".join(card_text._bench_lines({}))
