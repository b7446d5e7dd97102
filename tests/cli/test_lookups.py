"""Lists, cards, completion: what scripts and people look up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

KEYS = {"name", "title", "task", "dims", "family", "paper", "year", "params", "at", "needs", "aliases"}


def test_the_list_is_an_array_of_cards(medseg: Callable) -> None:
    code, cards, _ = medseg("list", "--json")
    assert code == 0
    assert all(set(card) == KEYS for card in cards)
    names = [card["name"] for card in cards]
    assert len(names) == len(set(names))
    assert {
        "u-net",
        "3d-u-net",
        "v-net",
        "attention-u-net",
        "fcn-8s",
        "threshold-otsu",
        "lung-threshold",
    } <= set(names)


def test_filters_narrow_the_list(medseg: Callable) -> None:
    everything = len(medseg("list", "--json")[1])
    flat = medseg("list", "--dims", "2", "--json")[1]
    gates = medseg("list", "--family", "attention", "--task", "semantic", "--json")[1]
    assert 0 < len(flat) < everything
    assert {"attention-u-net", "se-u-net"} <= {card["name"] for card in gates}
    assert medseg("list", "--family", "nothing", "--json")[1] == []


def test_a_card_shows_paper_arguments_and_counts(medseg: Callable) -> None:
    code, facts, _ = medseg("show", "3d-u-net", "--json")
    assert code == 0
    assert facts["params"] == 19_069_955
    assert facts["counted"]["paper 3D"] == pytest.approx(19_069_955, rel=0.01)
    assert "features" in facts["arguments"]
    code, text, _ = medseg("show", "3d-u-net")
    assert "Cicek" in text
    code, _, err = medseg("show", "3d-u-net", "--size", "smal")
    assert code == 2
    assert "did you mean small" in err


def test_an_unknown_system_is_answered_with_the_nearest(medseg: Callable) -> None:
    code, _, err = medseg("show", "3d-unett")
    assert code == 2
    assert "did you mean 3d-u-net" in err


def test_completion_is_printed_for_each_shell(medseg: Callable) -> None:
    for shell in ("bash", "zsh", "fish"):
        code, text, _ = medseg("completion", shell)
        assert code == 0
        assert "_MEDSEG_COMPLETE" in text


@pytest.mark.parametrize(
    ("words", "begun", "among"),
    [
        (["show"], "3d-u-n", "3d-u-net"),
        (["list", "--family"], "enc", "encoder_decoder"),
        (["list", "--task"], "sem", "semantic"),
        (["list", "--dims"], "", "3"),
        ([], "tra", "train"),
    ],
)
def test_tab_completes_verbs_systems_families_and_tasks(words: list[str], begun: str, among: str) -> None:
    from click.shell_completion import ShellComplete

    from medseg.cli import cli

    found = ShellComplete(cli, {}, "medseg", "_MEDSEG_COMPLETE").get_completions(words, begun)
    assert among in [item.value for item in found]
    assert all(item.value.startswith(begun) for item in found)
