"""The pages of docs/systems are those the catalog prints."""

from __future__ import annotations

from pathlib import Path

from medseg.zoo.docs import render, write

PAGES = Path(__file__).parents[2] / "docs" / "systems"


def test_the_pages_are_up_to_date() -> None:
    expected = render()
    stale = [
        n for n, text in expected.items() if not (PAGES / n).is_file() or (PAGES / n).read_text() != text
    ]
    assert stale == [], "run: python -m medseg.zoo.docs docs/systems"
    assert sorted(p.name for p in PAGES.glob("*.md")) == sorted(expected)


def test_pages_are_written_whole(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "README.md").read_text() == render()["README.md"]
