"""The commands that measure the whole zoo: whether it learns, what it holds in memory, what `show` says of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from medseg.bench.baselines import INTENSITY, fit_baseline
from medseg.zoo.build import find
from medseg.zoo.catalog import CATALOG

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


learns, memory, figures = script("zoo_learns"), script("zoo_memory"), script("zoo_figures")


# --- zoo_learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (32, 32, 32)])
def test_scenes_hold_discs_and_bars_of_one_brightness(shape: tuple[int, ...]) -> None:
    drawn = learns.scenes(3, 40, shape, 2)
    disc = np.concatenate([s.image[0][s.target == 1] for s in drawn])
    rest = np.concatenate([s.image[0][s.target == 0] for s in drawn])
    assert disc.mean() == pytest.approx(1.0, abs=0.05)
    assert disc.std() == pytest.approx(learns.NOISE, rel=0.05)
    assert 0.008 < rest.mean() < 0.2, "the bars are bright, too"
    assert 0.02 < np.mean([s.target.mean() for s in drawn]) < 0.35
    assert np.array_equal(learns.scenes(3, 1, shape, 2)[0].image, drawn[0].image)
    assert drawn[0].image.shape == (2, *shape)


def test_a_larger_cube_holds_the_same_scene_drawn_larger() -> None:
    small, large = (learns.scenes(3, 1, (side,) * 3, 1)[0] for side in (32, 64))
    assert large.target.sum() == pytest.approx(8 * small.target.sum(), rel=0.05)
    assert learns.plan_of((32,) * 3, 1).batch_size == 2
    assert learns.plan_of((64,) * 3, 1).batch_size == 1
    assert learns.plan_of((64, 64), 1).batch_size == 4


def test_a_form_gets_its_own_recipe_unless_the_command_says_otherwise() -> None:
    card = find("esa-net")
    assert learns.recipe_of(card, 3, {"steps": None, "side": None}).side == 64
    assert learns.recipe_of(card, 3, {"side": 32, "rate": 0.01}) == learns.Recipe(
        side=32, rate=0.01, seconds=900.0
    )
    assert learns.recipe_of(card, 2, {}) == learns.Recipe()
    assert all(d in find(name).dims for name, d in learns.OWN)


def test_intensity_alone_does_not_find_the_discs() -> None:
    cases = dict(enumerate(learns.scenes(1, 8, (64, 64), 1)))
    baseline = fit_baseline(INTENSITY, cases, learns.plan_of((64, 64), 1), 0)
    assert 0.2 < learns.mean_dice(baseline, learns.scenes(2, 8, (64, 64), 1)) < 0.5


class Threshold(nn.Module):
    """Mean over 7 x 7, then a threshold: sees neighbours, so it sees through the noise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(x[:, :1], 7, 1, 3)
        return torch.cat([0.55 - mean, mean - 0.55], dim=1)


def test_whoever_looks_at_neighbours_is_better_by_the_margin() -> None:
    held_out = learns.scenes(2, 8, (64, 64), 1)
    cases = dict(enumerate(learns.scenes(1, 8, (64, 64), 1)))
    baseline = fit_baseline(INTENSITY, cases, learns.plan_of((64, 64), 1), 0)
    assert learns.mean_dice(Threshold(), held_out) > learns.mean_dice(baseline, held_out) + learns.MARGIN


def test_an_entry_is_measured_once_and_again_when_the_recipe_changes(tmp_path: Path, monkeypatch) -> None:
    made: list[str] = []

    def measure(card, dims, recipe):
        made.append(f"{card.name} {dims}")
        return {
            "system": card.name, "dims": dims, "size": "tiny", "patch": [8, 8], "dice": 0.9, "baseline": 0.3,
            "learns": True, "steps": 1, "seconds": 1.0, "first_loss": 1.0, "last_loss": 0.5,
        }  # fmt: skip

    monkeypatch.setattr(learns, "measure", measure)
    command = ["zoo_learns.py", "--systems", "enet", "--dims", "2", "--out", str(tmp_path)]
    for extra, expected in (([], 1), ([], 1), (["--steps", "7"], 2), (["--steps", "7", "--again"], 3)):
        monkeypatch.setattr(sys, "argv", [*command, *extra])
        assert learns.main() == 0
        assert len(made) == expected
    assert (
        "| `enet` | 2D | tiny | 0.900 | 0.300 | yes | 1 | 1 | 1.000 to 0.500 | 8x8 |"
        in (tmp_path / "README.md").read_text()
    )


def test_one_step_of_training_is_taken_by_the_systems_own_loss() -> None:
    facts = learns.measure(find("lrr"), 2, learns.Recipe(size="tiny", steps=2))
    assert facts["steps"] == 2
    assert facts["patch"] == [64, 64]


# --- zoo_memory ---------------------------------------------------------------------------------------------------


def test_live_bytes_count_what_lives_and_forget_what_is_freed() -> None:
    live = memory.LiveBytes()
    with live:
        kept = torch.zeros(1000, device="meta")
        assert live.now == 4000
        gone = torch.zeros(500, device="meta")
        view = kept[:10]
        assert live.now == 6000
        del gone
    assert (live.now, live.peak) == (4000, 6000)
    assert view.shape == (10,)


def test_a_counted_step_holds_weights_gradients_and_activations() -> None:
    card = find("linknet")
    net, _ = memory.one_step(card, 2, "tiny", "meta")
    weights = sum(4 * p.numel() for p in net.parameters())
    counted = memory.counted(card, 2, "tiny") - memory.PROCESS_BYTES
    image = 4 * 3 * 384 * 480
    assert counted > 2 * weights + image


def test_a_form_with_constants_on_the_cpu_is_counted() -> None:
    entry = memory.entry_of(find("enc-net"), 2, "tiny", {}, 6_000_000_000, measure=False)
    assert entry["counted_bytes"] > memory.PROCESS_BYTES


def test_a_form_whose_shapes_depend_on_the_image_says_so() -> None:
    entry = memory.entry_of(find("msci"), 2, "tiny", {}, 6_000_000_000, measure=False)
    assert "bincount" in entry["not_counted"]
    assert "counted_bytes" not in entry


def test_the_page_shows_what_is_over_the_limit() -> None:
    entries = {
        "a-net 3D paper": {"counted_bytes": 7_000_000_000, "over": "can't allocate memory"},
        "b-net 2D small": {"counted_bytes": 500_000_000, "peak_bytes": 520_000_000},
        "c-net 2D small": {"not_counted": "bincount"},
    }
    page = memory.page(entries, 6_000_000_000)
    assert "| `a-net` | 3D | paper | **7.00** | **over** |" in page
    assert "| `b-net` | 2D | small | 0.50 | 0.52 |" in page
    assert "| `c-net` | 2D | small | depends on the image |  |" in page


# --- zoo_figures --------------------------------------------------------------------------------------------------


def test_the_kept_figures_are_those_of_the_code() -> None:
    kept = json.loads(figures.FIGURES.read_text())
    networks = [card for card in CATALOG if card.kind == "network"]
    stale = [card.name for card in networks if kept.get(card.name, {}).get("key") != figures.key_of(card)]
    assert stale == [], "run: python benchmarks/zoo_figures.py"
    assert list(kept) == sorted(card.name for card in networks)


def test_figures_are_counted_again_for_what_changed_alone(tmp_path: Path, monkeypatch) -> None:
    made: list[str] = []

    def entry(card):
        made.append(card.name)
        return {"key": figures.key_of(card), "forms": {}}

    file = tmp_path / "figures.json"
    file.write_text('{"no-longer-there": {"key": ""}, "linknet": {"key": "of other code"}}')
    monkeypatch.setattr(figures, "FIGURES", file)
    monkeypatch.setattr(figures, "entry_of", entry)
    command = ["zoo_figures.py", "--systems", "enet,linknet"]
    for extra, expected in (([], 2), ([], 2), (["--again"], 4)):
        monkeypatch.setattr(sys, "argv", [*command, *extra])
        assert figures.main() == 0
        assert len(made) == expected
    assert list(json.loads(file.read_text())) == ["enet", "linknet"]
