"""Writes the pages that are printed from code: python docs/render.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from medseg.config import Pipeline, Section

ROOT = Path(__file__).parent


def pages() -> dict[str, str]:
    """File name below docs/ -> text."""
    from medseg.bench.recipe import load_recipe
    from medseg.bench.table import page as bench_page
    from medseg.io.dicom.conformance import page as dicom_page
    from medseg.metrics.docs import render as metrics_page
    from medseg.zoo.docs import render as system_pages

    systems = {f"systems/{name}": text for name, text in system_pages().items()}
    zoo = {"zoo.md": bench_page(load_recipe(), ROOT / "zoo")}
    own = {
        "pipeline-file.md": pipeline_page(),
        "metrics.md": metrics_page(),
        "dicom-conformance.md": dicom_page(),
    }
    return {**own, **zoo, **systems}


def pipeline_page() -> str:
    """Every key of the pipeline file with its default and meaning."""
    lines = [
        "# The pipeline file", "",
        "Printed from `medseg/config.py` by `python docs/render.py`. `medseg schema` prints the same as JSON schema.",
        "`include: [file, ...]` takes other files in; later values win; `--set key=value` wins over all.", "",
    ]  # fmt: skip
    for name, field in Pipeline.model_fields.items():
        lines += [f"## {name}", "", f"{field.description}.", ""]
        sections = sections_in(field.annotation)
        if sections:
            lines += ["| key | default | meaning |", "|---|---|---|", *rows(sections[0], f"{name}."), ""]
    return "\n".join(lines)


def rows(kind: type[Section], prefix: str) -> list[str]:
    out = []
    for name, field in kind.model_fields.items():
        inner = sections_in(field.annotation)
        default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
        out.append(
            f"| `{prefix}{name}` | {'' if inner else default} | {(field.description or '').replace('|', 'or')} |"
        )
        for section in inner:
            out += rows(section, f"{prefix}{name}." if name != "classes" else f"{prefix}{name}.NAME.")
    return out


def sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [s for part in get_args(annotation) for s in sections_in(part)][:1]


def shown(value: Any) -> str:
    return f"`{value}`" if value not in (None, "", [], {}) else ("none" if value is None else "empty")


def main() -> int:
    stale = []
    for name, text in pages().items():
        path = ROOT / name
        text = text.rstrip("\n") + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "all pages are as the code prints them")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
