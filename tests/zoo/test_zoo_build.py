"""Names become systems; mistakes are answered with the nearest right word."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from medseg.core.errors import UserError
from medseg.zoo import catalog
from medseg.zoo.build import arguments_of, build, defaults_of, find, parameter_count
from medseg.zoo.card import Card


def test_an_alias_finds_the_same_row() -> None:
    assert find("UNet") is find("u-net")


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no system named '3d-unet', did you mean 3d-u-net") as caught:
        find("3d-unet")
    assert "`medseg list` shows all" in str(caught.value)


def test_a_name_like_no_other_still_points_to_the_list() -> None:
    with pytest.raises(UserError, match="medseg list"):
        find("zzzzqqq")


def test_a_wrong_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no argument 'feature', did you mean features") as caught:
        build("u-net", dims=2, in_channels=1, classes=2, feature=(4, 8))
    assert "system u-net" in caught.value.where


def test_a_wrong_size_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no size 'tini', did you mean tiny") as caught:
        build("u-net", dims=2, in_channels=1, classes=2, size="tini")
    assert "paper, small, tiny" in caught.value.hint


def test_a_volume_network_refuses_photographs() -> None:
    with pytest.raises(UserError, match="works on 3D images only, these are 2D"):
        build("3d-u-net", dims=2, in_channels=3, classes=2, size="tiny")


@pytest.mark.parametrize(("what", "numbers"), [("classes", (1, 0)), ("in_channels", (0, 2))])
def test_no_channels_are_refused(what: str, numbers: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"{what} is 0"):
        build("u-net", dims=2, in_channels=numbers[0], classes=numbers[1], size="tiny")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("u-net", {"padding": "some"}, "padding is 'some'; it is same, valid or mirror"),
        ("u-net", {"norm": "layer"}, "norm is 'layer'; it is batch, instance, group or none"),
        ("fcn-8s", {"stride": 7}, "stride is 7"),
        ("v-net", {"activation": "gelu"}, "activation is 'gelu'"),
        ("v-net", {"convs": ((1, 1), (1, 1))}, "there is one more down"),
        ("v-net", {"convs": ((2, 1), (1,))}, "the first stage has one convolution"),
        ("nnunet-plain", {"strides": (1, 2)}, "strides has 2 entries for 3 stages"),
        ("nnunet-plain", {"kernel_sizes": ((3, 3, 3),) * 3}, "has 3 axes in a 2D network"),
    ],
)
def test_a_value_the_system_refuses_is_named(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, dims=2, in_channels=1, classes=2, size="tiny", **arguments)


def test_arguments_come_with_their_published_defaults() -> None:
    assert dict(arguments_of(find("u-net")))["features"] == (64, 128, 256, 512, 1024)
    assert "strides" in dict(arguments_of(find("nnunet-plain")))
    assert dict(arguments_of(find("threshold-otsu")))["bins"] == 256


def test_defaults_are_those_of_the_size_that_a_pipeline_gets_unasked() -> None:
    assert [dict(defaults_of(find(name)))["stride"] for name in ("fcn-32s", "fcn-16s", "fcn-8s")] == [
        32,
        16,
        8,
    ]


def test_counting_parameters_uses_no_memory_and_methods_have_none() -> None:
    assert parameter_count(find("u-net"), dims=3) > 80_000_000
    assert parameter_count(find("threshold-otsu"), dims=2) == 0


def test_a_card_as_json_has_the_published_keys() -> None:
    expected = "name title task dims family paper year params at needs aliases"
    assert list(find("u-net").as_json()) == expected.split()


def test_the_catalog_is_read_without_torch_and_numpy() -> None:
    code = (
        "import sys, medseg.zoo.catalog as c; c.cards();"
        "print([m for m in ('torch', 'monai', 'mlflow', 'pandas', 'scipy', 'numpy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# --- systems of other packages ------------------------------------------------------------------------------------


def plug(monkeypatch: pytest.MonkeyPatch, name: str, load: object) -> None:
    """Pretends that a package `chest-nets` is installed with one entry point."""
    entry = SimpleNamespace(
        name=name, value="chest_nets:ROW", load=load, dist=SimpleNamespace(name="chest-nets")
    )
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: [entry] if group == catalog.GROUP else []
    )
    catalog.cards.cache_clear()


@pytest.fixture
def _fresh_catalog():
    yield
    catalog.cards.cache_clear()


def a_card(name: str) -> Card:
    return Card(name, "Chest net", "semantic", (2,), "fcn", "doi:10.1/x", 2025, "medseg.zoo.fcn.fcn:FCN")


@pytest.mark.usefixtures("_fresh_catalog")
def test_a_package_adds_a_system(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, "chest-net", lambda: a_card("chest-net"))
    assert find("chest-net").title == "Chest net"


@pytest.mark.usefixtures("_fresh_catalog")
def test_a_package_may_not_take_a_name_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, "unet", lambda: a_card("unet"))
    with pytest.raises(UserError, match="'unet' is already taken by medseg") as caught:
        catalog.cards()
    assert caught.value.where == "package chest-nets"


@pytest.mark.usefixtures("_fresh_catalog")
def test_a_broken_package_is_named_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Card:
        raise ImportError("no module named cuda_ops")

    plug(monkeypatch, "chest-net", broken)
    assert find("u-net").name == "u-net"
    with pytest.raises(UserError, match="no module named cuda_ops") as caught:
        find("chest-net")
    assert caught.value.where == "package chest-nets"


@pytest.mark.usefixtures("_fresh_catalog")
def test_an_entry_point_that_is_no_card_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, "chest-net", lambda: "chest-net")
    with pytest.raises(UserError, match="gives str, not a"):
        catalog.cards()


@pytest.mark.usefixtures("_fresh_catalog")
def test_a_card_that_points_nowhere_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("chest-net", "", "semantic", (2,), "fcn", "doi:10.1/x", 2025, "chest_nets_absent.net:Net")
    plug(monkeypatch, "chest-net", lambda: card)
    with pytest.raises(UserError, match=r"chest_nets_absent.net:Net cannot be loaded"):
        build("chest-net", dims=2, in_channels=1, classes=2)
