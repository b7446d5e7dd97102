"""What two choices for narrow 3D networks on a CPU are worth: the network and patch of pipelines/ct_lung.yaml, in fp32.

    python benchmarks/narrow_networks.py

One thread, its own processor seconds, medians of 15 turns taken in alternation, so that other work on the machine weighs on
both sides alike. A window is predicted by the network as PyTorch runs it, and by the engine, which hands small convolutions
to oneDNN. A batch goes forward and backward with weights in PyTorch's order, and in the order that training gives them.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medseg.bench.entries import cpu_name
from medseg.config_file import read_yaml
from medseg.predict.engines.eager import Eager
from medseg.train.devices import Precision, lay_out
from medseg.zoo.build import build

PIPELINE = Path(__file__).parent.parent / "pipelines" / "ct_lung.yaml"
TURNS = 15


def seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median processor seconds of each, taken in alternation after one turn to warm up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(TURNS + 1):
        for name, work in works.items():
            start = time.thread_time()
            work()
            if turn:
                found[name].append(time.thread_time() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    asked = read_yaml(PIPELINE).values
    system, patch = asked["system"], asked["train"]["patch_size"]

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return build(system["name"], dims=3, in_channels=1, classes=3, **system["arguments"])

    window, batch = torch.randn(1, 1, *patch), torch.randn(asked["train"]["batch_size"], 1, *patch)
    plain, turned = network(), network()
    lay_out(turned, "cpu", Precision("fp32", "for this benchmark"))
    resting = network().eval()
    engine = Eager(resting)

    def predict() -> None:
        with torch.inference_mode():
            resting(window)

    def learn(net: torch.nn.Module) -> None:
        net(batch).square().mean().backward()
        net.zero_grad()

    print(f"{cpu_name()}, one thread, torch {torch.__version__}, Python {platform.python_version()}\n")
    print("| what | as PyTorch does it | as medseg does it | ratio |\n|---|---|---|---|")
    for what, ours, works in (
        ("one window, forward", "engine", {"PyTorch": predict, "engine": lambda: engine(window)}),
        ("one batch, forward and backward", "turned",
         {"PyTorch": lambda: learn(plain), "turned": lambda: learn(turned)}),
    ):  # fmt: skip
        took = seconds(works)
        ratio = took["PyTorch"] / took[ours]
        print(f"| {what} | {took['PyTorch']:.3f} s | {took[ours]:.3f} s | {ratio:.1f} |")


if __name__ == "__main__":
    main()
