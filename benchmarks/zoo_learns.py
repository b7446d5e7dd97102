"""Does a system learn shape? Each trains briefly to find discs (balls) among bars of the same brightness, in noise.

python benchmarks/zoo_learns.py [--systems a,b] [--dims 2,3] [--size small] [--steps 100] [--seconds 60] [--side 64]
                                [--out docs/zoo/learns] [--again] [--table]

Intensity tells a disc neither from noise nor from a bar, so a system that only learns brightness stays at the baseline.
One JSON file a system and form; what is there for the same code and settings is not run again. Writes OUT/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medseg.bench.baselines import INTENSITY, fit_baseline
from medseg.bench.sources import digest_of
from medseg.config import Plan, Train
from medseg.core.atomic import read_json, write_json, write_text
from medseg.train.objective import Objective, step_loss
from medseg.train.schedule import rate_factor
from medseg.zoo.build import build, find
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG
from medseg.zoo.effort import fitting

SIDE = {2: 64, 3: 32}
RADII = {2: (8.0, 12.0), 3: (6.0, 9.0)}
BATCH = {2: 4, 3: 2}
NOISE, DEPTH_NOISE = 0.8, 1.2
MARGIN = 0.10
"""Dice above the intensity baseline that counts as having learnt a shape."""


@dataclass(frozen=True)
class Recipe:
    """What a run gets. steps: at most; seconds: of processor time in training, at most.

    side: of the image in voxels, 0 for SIDE; all that is drawn grows with it. A network that sees the image at a
    thirty-second of its size has one voxel left of SIDE's cube, too few for its norms and its context.
    """

    size: str = "small"
    side: int = 0
    steps: int = 100
    seconds: float = 60.0
    rate: float = 1e-3
    seed: int = 17


# --- the task -----------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """One image (C, *S) with its labels (*S), readable as a prepared case."""

    image: npt.NDArray[np.float32]
    target: npt.NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    @property
    def channels(self) -> int:
        return len(self.image)

    def read_image(self, start: Any, size: Any) -> npt.NDArray[np.float32]:
        return self.image

    def read_target(self, start: Any, size: Any) -> npt.NDArray[np.uint8]:
        return self.target


def draw_scene(rng: np.random.Generator, shape: tuple[int, ...], channels: int) -> Scene:
    """One or two discs (class 1) and two bars (class 0), both of brightness 1 on 0, with noise of standard deviation 0.8.

    A second channel shows the same scene in more noise: a depth, or another sequence.
    """
    dims = len(shape)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    scale = min(shape) / SIDE[dims]
    radius = scale * rng.uniform(*RADII[dims])
    thick = round(3 * scale)
    places = [rng.uniform(radius, np.array(shape) - radius) for _ in range(int(rng.integers(1, 3)))]
    discs = np.zeros(shape, bool)
    for place in places:
        discs |= ((grid - place.reshape(-1, *[1] * dims)) ** 2).sum(0) <= radius**2
    bars = np.zeros(shape, bool)
    for _ in range(2):
        along = int(rng.integers(dims))
        place = [slice(int(p), int(p) + thick) for p in rng.uniform(2, np.array(shape) - thick - 2)]
        place[along] = slice(0, shape[along])
        bars[tuple(place)] = True
    seen = (discs | bars).astype(np.float32)
    noises = [NOISE, *[DEPTH_NOISE] * (channels - 1)]
    image = np.stack([seen + sd * rng.standard_normal(shape) for sd in noises]).astype(np.float32)
    return Scene(image, discs.astype(np.uint8))


def scenes(seed: int, count: int, shape: tuple[int, ...], channels: int) -> list[Scene]:
    """`count` different scenes; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, shape, channels) for _ in range(count)]


def plan_of(shape: tuple[int, ...], channels: int) -> Plan:
    """What the loss and the baseline read of a plan; larger images come in smaller batches, down to one."""
    return Plan(
        dims=len(shape),  # type: ignore[arg-type]
        in_channels=channels,
        classes=[{"name": "disc", "value": 1}],
        out_channels=2,
        intensity=[],
        patch_size=list(shape),
        batch_size=max(1, BATCH[len(shape)] * SIDE[len(shape)] ** len(shape) // prod(shape)),
    )


# --- one system ---------------------------------------------------------------------------------------------------


def measure(card: Card, dims: int, recipe: Recipe) -> dict[str, Any]:
    """Trains a system from a random start and scores it on eight scenes that it has not seen."""
    torch.manual_seed(recipe.seed)
    channels = 2 if card.needs else 1
    size = recipe.size if recipe.size in card.sizes else "tiny"
    net = build(card.name, dims=dims, in_channels=channels, classes=2, size=size)
    shape = fitting((recipe.side or SIDE[dims],) * dims, net)
    plan = plan_of(shape, channels)
    held_out = scenes(recipe.seed + 1, 8, shape, channels)
    baseline = fit_baseline(INTENSITY, dict(enumerate(scenes(recipe.seed, 8, shape, channels))), plan, 0)  # type: ignore[arg-type]
    least = mean_dice(baseline, held_out)
    steps, seconds, losses = fit(net, plan, recipe)
    found = mean_dice(net, held_out)
    return {
        "system": card.name,
        "dims": dims,
        "size": size,
        "patch": list(shape),
        "dice": round(found, 4),
        "baseline": round(least, 4),
        "learns": found >= least + MARGIN,
        "steps": steps,
        "seconds": round(seconds, 1),
        "first_loss": round(float(np.mean(losses[:5])), 4),
        "last_loss": round(float(np.mean(losses[-5:])), 4),
        "parameters": sum(p.numel() for p in net.parameters()),
    }


def fit(net: Any, plan: Plan, recipe: Recipe) -> tuple[int, float, list[float]]:
    """Steps of AdamW on scenes drawn anew, by the system's own loss where it has one. Returns steps, seconds, losses."""
    from lightning_fabric import Fabric

    settings = Train()
    wrapped = Fabric(accelerator="cpu", devices=1).setup_module(net)
    loss_of = step_loss(net, wrapped, Objective(settings, plan), plan.patch_size)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-4)
    rng = np.random.default_rng(recipe.seed)
    shape, losses, begun = tuple(plan.patch_size), [], time.process_time()
    net.train()
    for step in range(recipe.steps):
        share = max(step / recipe.steps, (time.process_time() - begun) / recipe.seconds)
        if share >= 1:
            break
        batch = [draw_scene(rng, shape, plan.in_channels) for _ in range(plan.batch_size)]
        images = torch.from_numpy(np.stack([s.image for s in batch]))
        targets = torch.from_numpy(np.stack([s.target for s in batch]))
        optimiser.param_groups[0]["lr"] = recipe.rate * rate_factor(share, "poly", 0.05)
        loss = loss_of(images, targets, None)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip or 12.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return len(losses), time.process_time() - begun, losses


def mean_dice(net: Any, held_out: list[Scene]) -> float:
    """Mean Dice of the discs over scenes, in eval mode, as a prediction would be made: one image at a time."""
    net.eval()
    found = []
    with torch.no_grad():
        for scene in held_out:
            label = net(torch.from_numpy(scene.image[None]))[0].argmax(0).numpy() == 1
            truth = scene.target == 1
            found.append(2 * float((label & truth).sum()) / max(1, int(label.sum() + truth.sum())))
    return float(np.mean(found))


# --- files and the table ------------------------------------------------------------------------------------------

WIDER: dict[str, Any] = {"side": 64, "seconds": 900.0}
"""For networks with norms at a sixteenth or a thirty-second of the image: two voxels or one along a cube of 32."""
LONGER: dict[str, Any] = {"steps": 300, "seconds": 900.0}
"""For networks without norms, whose papers start from trained weights, and for those that end in few channels."""
BOTH: dict[str, Any] = {**WIDER, **LONGER}
"""For networks without norms that look far on coarse scores: twelve voxels on an eighth of the image, or a VGG of five halvings."""
OWN: dict[tuple[str, int], dict[str, Any]] = {
    ("attention-to-scale", 3): BOTH,
    ("cascade-net", 3): LONGER,
    ("cnn-dense-crf", 3): BOTH,
    ("crf-rnn", 3): BOTH,
    ("esa-net", 3): WIDER,
    ("ex-fuse", 3): WIDER,
    ("fcdsn", 3): LONGER,
    ("hmsa", 3): WIDER,
    ("ls-deconvnet", 3): LONGER,
    ("transformer-cbam", 3): LONGER,
}
"""What a form gets unlike all others, where the command does not say otherwise."""


def recipe_of(card: Card, dims: int, given: Mapping[str, Any]) -> Recipe:
    """The recipe of a form; what a person gave (values that are not None) comes first."""
    own = OWN.get((card.name, dims), {})
    return Recipe(**{**own, **{name: value for name, value in given.items() if value is not None}})


def key_of(card: Card, dims: int, recipe: Recipe) -> str:
    """Changes with the system's code, its sizes and whatever is asked of all."""
    own = Path(__file__).read_text(encoding="utf-8").partition("# --- files and the table")[0]
    facts = [
        digest_of(card),
        dict(card.sizes.get(recipe.size, {})),
        dims,
        asdict(recipe),
        hashlib.sha256(own.encode()).hexdigest(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def table(entries: list[Mapping[str, Any]]) -> str:
    """The page that is written beside the entries."""
    lines = [
        "# Which systems learn a shape",
        "",
        "Written by `python benchmarks/zoo_learns.py`; one file is one entry, made from a random start on one thread.",
        "Discs (balls) are to be found among bars of the same brightness, both in noise: 64 x 64 pixels, 4 a step, or "
        "32 x 32 x 32 voxels, 2 a step, 100 steps of AdamW at 0.001. Some get more, as the columns say: a cube of 64, 1 a "
        "step, with everything drawn twice as large, where norms stand at a sixteenth or a thirty-second of the image, "
        "two voxels or one along the smaller cube; 300 steps where there are no norms, or where a small size ends in few channels; "
        "both where there are no norms and coarse scores look far. "
        "The baseline judges each voxel by its intensity alone. "
        f"learns: Dice at least {MARGIN:.2f} above it, on eight scenes not seen before. The figures say that a mechanism "
        "works and its gradients flow; they do not rank systems.",
        "",
        "| system | form | size | Dice | baseline | learns | steps | seconds | loss, first to last | patch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for e in sorted(entries, key=lambda e: (e["dims"], e["system"])):
        patch = "x".join(str(n) for n in e["patch"])
        lines.append(
            f"| `{e['system']}` | {e['dims']}D | {e['size']} | {e['dice']:.3f} | {e['baseline']:.3f} | "
            f"{'yes' if e['learns'] else 'no'} | {e['steps']} | {e['seconds']:.0f} | "
            f"{e['first_loss']:.3f} to {e['last_loss']:.3f} | {patch} |"
        )
    return "\n".join(lines) + "\n"


def write_table(out: Path) -> None:
    """Writes OUT/README.md from the entries that lie there."""
    write_text(out / "README.md", table([read_json(p) for p in sorted(out.glob("*.json"))]))


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--systems", help="names, separated by commas; default: every network")
    asked.add_argument("--dims", default="2,3")
    asked.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "zoo" / "learns")
    asked.add_argument("--again", action="store_true")
    asked.add_argument("--table", action="store_true", help="only write the page")
    for name, value in asdict(Recipe()).items():
        asked.add_argument(
            f"--{name}", type=type(value), help=f"default: {value}, or what a form has of its own"
        )
    given = asked.parse_args()
    torch.set_num_threads(1)
    named = [find(n) for n in given.systems.split(",")] if given.systems else list(CATALOG)
    forms = [int(d) for d in given.dims.split(",")]
    wanted = [(c, d) for c in named if c.kind == "network" for d in forms if d in c.dims]
    poor = 0
    for card, dims in [] if given.table else wanted:
        recipe = recipe_of(card, dims, {name: getattr(given, name) for name in asdict(Recipe())})
        path, key = given.out / f"{card.name}-{dims}d.json", key_of(card, dims, recipe)
        if path.is_file() and read_json(path)["key"] == key and not given.again:
            continue
        entry = {**measure(card, dims, recipe), "key": key}
        poor += not entry["learns"]
        write_json(path, entry)
        print(
            f"{card.name:<22} {dims}D  Dice {entry['dice']:.3f}  baseline {entry['baseline']:.3f}  "
            f"{entry['steps']} steps in {entry['seconds']:.0f} s",
            flush=True,
        )
    write_table(given.out)
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
