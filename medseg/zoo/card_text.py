"""What `medseg show` says of a system, as text of 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80
OPENERS = re.compile(r"\n(?=Differs from the paper:|Not confirmed|Oracle:)")
"""Sentences of a file's docstring that open a paragraph of their own."""


def text_of(facts: dict[str, Any]) -> str:
    """What `describe.describe` gives, as a person reads it."""
    forms = "/".join(f"{d}D" for d in facts["dims"])
    lines = [
        f"{facts['name']}: {facts['title']}",
        _filled(f"{forms} {facts['task']}, {facts['family']}, {facts['year']}, {facts['paper']}", "  "),
        *_published_lines(facts),
    ]
    for paragraph in facts["about"].split("\n\n"):
        lines.append("")
        lines += [_filled(part) for part in OPENERS.split(paragraph)]
    if facts["kind"] == "network":
        lines += _size_lines(facts)
        lines += _effort_lines(facts["effort"])
        lines += _bench_lines(facts["bench"])
    lines += ["", "arguments (system.arguments.NAME in a pipeline file)"]
    lines += [
        _filled(f"{name} = {'given by the plan' if default is None else default}", "  ", "    ")
        for name, default in facts["arguments"].items()
    ]
    if facts["needs"]:
        lines += ["", f"needs: {', '.join(facts['needs'])}"]
    return "\n".join(lines)


def _filled(text: str, indent: str = "", rest: str | None = None) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _published_lines(facts: dict[str, Any]) -> list[str]:
    """The count that others give beside the one of the same form here."""
    if facts["params"] is None:
        return []
    here = "" if facts["params_here"] is None else f"; here {facts['params_here']:,}"
    form = {key: value for key, value in facts["params_form"].items() if key != "dims"}
    text = (
        f"reference: {facts['params']:,} weights ({facts['params_source']}){here} "
        f"({_pairs({'dims': facts['params_form'].get('dims'), **form})})"
    )
    lines = [_filled(text, "  ")]
    if facts["params_waived"]:
        lines.append(_filled(facts["params_waived"], "  "))
    return lines


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _size_lines(facts: dict[str, Any]) -> list[str]:
    lines = ["", "sizes, with weights for an image of 3 channels (2D) or 1 (3D) and two classes"]
    for size, values in facts["sizes"].items():
        counts = [
            f"{form.split()[1]} {n:,}"
            for form, n in facts["counted"].items()
            if form.startswith(f"{size} ") and n
        ]
        text = f"{', '.join(counts) or 'weights: after planning'}; {_pairs(values) or 'defaults'}"
        lines.append(_filled(text, f"  {size:<11} ", " " * 14))
    return lines


def _effort_lines(efforts: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for form, found in efforts.items():
        shape = ",".join(str(n) for n in found["input"])
        lines.append(
            f"  {form:<11} {found['flops'] / 1e9:>10,.2f} GFLOP  {found['params']:>12,} weights   input {shape}"
        )
    head = [
        "operations of one forward pass, two classes: convolutions, matrix products and",
        "attention, a multiplication and an addition counted as two",
        "(--input B,C,... [--size NAME] counts them for another image)",
    ]
    return ["", *head, *lines] if lines else ["", "operations: cannot be counted without data"]


def _bench_lines(bench: dict[str, dict[str, Any]]) -> list[str]:
    if not bench:
        return ["", "bench: not measured yet (docs/zoo.md; `medseg bench zoo`)"]
    lines = []
    for data_set, f in bench.items():
        figures = f"Dice {f['dice']:.3f}, mIoU {f['miou']:.3f}"
        lines.append(f"  {data_set:<14} rank {f['rank']} of {f['of']}, size {f['size']}: {figures}")
        if f["learns"] is False:
            lines.append(f"  {'':<14} does not beat the baselines")
    return ["", "bench (docs/zoo.md)", *lines]
