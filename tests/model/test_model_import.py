"""Models of other programs come in as weights and plain values, and compute what they computed there."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.core.errors import UserError
from medseg.model import foreign
from medseg.model.folder import load_model
from medseg.model.foreign import read_foreign
from medseg.model.import_monai import import_monai
from medseg.model.import_nnunet import _names as channel_names
from medseg.model.import_nnunet import import_nnunet, new_name, read_nnunet
from medseg.zoo.build import build


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads without starting a process, for tests of what is made of the weights."""
    import safetensors.torch

    from medseg.model import foreign_reader

    def run(path: Path, weights: Path, facts: Path) -> None:
        scalar = np.float64(0).__reduce__()[0]
        with torch.serialization.safe_globals([np.dtype, scalar, type(np.dtype("float64"))]):
            tensors, rest = foreign_reader.tensors_of(torch.load(path, weights_only=True))
        safetensors.torch.save_file({k: v.contiguous().clone() for k, v in tensors.items()}, weights)
        facts.write_text(json.dumps(rest))

    monkeypatch.setattr(foreign, "_run", run)


TOPOLOGY: dict[str, Any] = {
    "features_per_stage": [4, 6, 8],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
CLASS = "dynamic_network_architectures.architectures.unet."


def plans(kind: str = "PlainConvUNet", **changes: Any) -> dict[str, Any]:
    blocks = {"n_conv_per_stage": [2, 2, 2]} if kind == "PlainConvUNet" else {"n_blocks_per_stage": [1, 2, 1]}
    return {
        "dataset_name": "Dataset001_Test",
        "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 50.0, "std": 100.0, "percentile_00_5": -900.0, "percentile_99_5": 800.0}
        },
        "configurations": {
            "3d_fullres": {
                "patch_size": [8, 16, 12],
                "spacing": [3.0, 1.0, 0.8],
                "batch_size": 2,
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "architecture": {
                    "network_class_name": CLASS + kind,
                    "arch_kwargs": {"n_stages": 3, **TOPOLOGY, **blocks, "n_conv_per_stage_decoder": [1, 2]},
                },
            },
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        **changes,
    }


DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}


def peer_network(kind: str = "PlainConvUNet") -> torch.nn.Module:
    """The peer's network: on (z, y, x) arrays."""
    torch.manual_seed(0)
    name, blocks = ("nnunet-plain", [2, 2, 2]) if kind == "PlainConvUNet" else ("nnunet-resenc", [1, 2, 1])
    net = build(
        name, dims=3, in_channels=1, classes=3, **TOPOLOGY, blocks_per_stage=blocks, decoder_convs=[1, 2]
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def their_names(net: torch.nn.Module, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights under the peer's names, with the second names that its modules register."""
    layer = {"0": "conv", "1": "norm"}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        last = [layer[parts[-2]], parts[-1]] if parts[0] in ("encoder", "decoder", "stem") else parts[-1:]
        if parts[0] == "stem":
            new = ["encoder", "stem", "convs", "0", *last]
        elif parts[0] == "decoder":
            new = ["decoder", "stages", parts[1], "convs", parts[2], *last]
        elif parts[0] == "up":
            new = ["decoder", "transpconvs", parts[1], *last]
        elif parts[0] == "heads":
            new = ["decoder", "seg_layers", parts[1], *last]
        elif kind == "PlainConvUNet":
            new = ["encoder", "stages", parts[1], "0", "convs", parts[2], *last]
        elif parts[3] == "path":
            new = ["encoder", "stages", parts[1], "blocks", parts[2], f"conv{int(parts[4]) + 1}", *last]
        else:
            new = ["encoder", "stages", parts[1], "blocks", parts[2], "skip", parts[4], *last]
        theirs = ".".join(new)
        yield theirs, value
        if last[0] in ("conv", "norm"):
            number = "0" if last[0] == "conv" else "1"
            yield re.sub(r"\.(conv|norm)\.(\w+)$", rf".all_modules.{number}.\2", theirs), value
        if theirs.startswith("encoder."):
            yield "decoder." + theirs, value


def a_checkpoint(folder: Path, kind: str = "PlainConvUNet", **changes: Any) -> Path:
    place = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (place / "fold_0").mkdir(parents=True)
    (place / "plans.json").write_text(json.dumps(plans(kind, **changes)))
    (place / "dataset.json").write_text(json.dumps(DATASET))
    path = place / "fold_0" / "checkpoint_final.pth"
    torch.save({"network_weights": dict(their_names(peer_network(kind), kind)), "trainer_name": "nnUNetTrainer",
                "current_epoch": 1000, "_best_ema": np.float64(0.9), "optimizer_state": {"state": {}},
                "inference_allowed_mirroring_axes": (0, 1, 2)}, path)  # fmt: skip
    return path


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize(("codes", "forward"), [("RAS", [0, 1, 2]), ("LPS", [0, 1, 2]), ("ILA", [2, 0, 1])])
def test_an_nnunet_network_answers_as_it_did_there(
    kind: str, codes: str, forward: list[int], tmp_path: Path
) -> None:
    import_nnunet(a_checkpoint(tmp_path, kind, transpose_forward=forward), tmp_path / "m", orientation=codes)
    model = load_model(tmp_path / "m")
    assert model.net is not None
    upright = torch.randn(1, 1, *model.plan.patch_size)
    ours = model.net(upright).detach()
    # The same patient as the peer's reader has it: file axes by their letters, backwards, then transposed.
    axes = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[letter] for letter in codes]
    turned = [axis + 2 for axis, letter in zip(axes, codes) if letter in "LPI"]
    order = [0, 1, *(2 + axes[2 - stored] for stored in forward)]
    theirs = peer_network(kind)(upright.flip(turned).permute(order)).detach()
    back = [order.index(n) for n in range(5)]
    assert torch.allclose(theirs.permute(back).flip(turned), ours, atol=1e-4)
    assert list(theirs.shape[2:]) == [8, 16, 12]


@pytest.mark.usefixtures("in_process")
def test_plan_classes_and_origin_come_along(tmp_path: Path) -> None:
    facts = import_nnunet(a_checkpoint(tmp_path), tmp_path / "m", orientation="LPS")
    plan = facts["plan"]
    assert plan["spacing_mm"] == [0.8, 1.0, 3.0]
    assert plan["patch_size"] == [12, 16, 8]
    assert plan["intensity"][0] == {
        "scheme": "ct",
        "low": -900.0,
        "high": 800.0,
        "shift": 50.0,
        "scale": 100.0,
    }
    assert [c["name"] for c in facts["classes"]] == ["liver", "spleen"]
    assert plan["mirror_axes"] == [0, 1, 2]
    assert facts["frame"] == {"turned": [0, 1]}
    assert facts["origin"]["epochs"] == 1000


def test_a_zip_as_nnunet_exports_it_is_read(tmp_path: Path) -> None:
    a_checkpoint(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as file:
        for path in (tmp_path / "x").rglob("*"):
            file.write(path, Path("Dataset001") / path.relative_to(tmp_path / "x"))
    assert import_nnunet(tmp_path / "model.zip", tmp_path / "m", orientation="RAS")["kind"] == "network"


@pytest.mark.usefixtures("in_process")
def test_without_the_orientation_nothing_is_guessed(tmp_path: Path) -> None:
    path = a_checkpoint(tmp_path)
    for codes in ("", "XYZ", "RRS"):
        with pytest.raises(UserError, match="orientation of its training images is needed") as caught:
            import_nnunet(path, tmp_path / "m", orientation=codes)
        assert "exchange left and right" in str(caught.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"configurations": {}}, "no configuration '3d_fullres'"),
        ({"foreground": 1, "transpose_forward": [0, 1, 2]}, ""),
    ],
)
def test_plans_that_do_not_fit_are_refused(change: dict, sentence: str, tmp_path: Path) -> None:
    path = a_checkpoint(tmp_path, **change)
    if sentence:
        with pytest.raises(UserError, match=sentence):
            read_nnunet(path, "RAS")
    else:
        assert read_nnunet(path, "RAS").plan.dims == 3


@pytest.mark.usefixtures("in_process")
def test_a_cascades_second_stage_and_other_networks_are_refused(tmp_path: Path) -> None:
    path = a_checkpoint(tmp_path / "a")
    renamed = path.parent.parent.with_name("nnUNetTrainer__nnUNetPlans__3d_cascade_fullres")
    path.parent.parent.rename(renamed)
    with pytest.raises(UserError, match="second stage of a cascade"):
        read_nnunet(renamed, "RAS")
    other = a_checkpoint(tmp_path / "b")
    text = (other.parent.parent / "plans.json").read_text().replace("PlainConvUNet", "PrimusM")
    (other.parent.parent / "plans.json").write_text(text)
    with pytest.raises(UserError, match="PrimusM is not in medseg's catalog"):
        read_nnunet(other, "RAS")


@pytest.mark.usefixtures("in_process")
def test_weights_of_another_plan_are_refused_with_their_names(tmp_path: Path) -> None:
    path = a_checkpoint(tmp_path)
    text = (path.parent.parent / "plans.json").read_text().replace("[4, 6, 8]", "[4, 6, 10]")
    (path.parent.parent / "plans.json").write_text(text)
    with pytest.raises(UserError, match="do not fit the network of its plans") as caught:
        read_nnunet(path, "RAS")
    assert "expected encoder.2" in str(caught.value)


@pytest.mark.parametrize(("names", "kept"), [
    ({"1": "T2", "0": "FLAIR"}, ["FLAIR", "T2"]), ({"0": "MRI", "1": "mri"}, []), ({"0": "CT"}, []),
])  # fmt: skip
def test_channels_keep_the_names_that_tell_them_apart(names: dict, kept: list[str]) -> None:
    assert channel_names(names) == kept


def test_names_that_stand_twice_are_left_out() -> None:
    assert new_name("encoder.stages.0.0.convs.1.all_modules.0.weight") is None
    assert new_name("decoder.encoder.stages.0.0.convs.1.conv.weight") is None
    assert new_name("_orig_mod.module.decoder.seg_layers.2.bias") == "heads.2.bias"


# --- files that are more than weights -----------------------------------------------------------------------------


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("name", ["w.pth", "w.bin"])
def test_a_malicious_pickle_under_any_name_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "x": Evil(trace)}, tmp_path / name)
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_foreign(tmp_path / name)
    (tmp_path / ("plain" + name)).write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_foreign(tmp_path / ("plain" + name))
    assert not trace.exists()


def test_torchscript_is_a_program_and_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match="is TorchScript, a program"):
        read_foreign(tmp_path / "w.pt")


def test_an_old_pytorch_needs_the_persons_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(UserError, match=r"PyTorch 2\.9\.1\+cpu has known holes.*--trust|--trust"):
        read_foreign(tmp_path / "w.pth")
    assert read_foreign(tmp_path / "w.pth", trust=True).tensors["a"].sum() == 2


@pytest.mark.parametrize(
    "deed",
    [
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "open(sys.argv[1], 'w')",
        "import os; os.system('true')",
    ],
)
def test_the_reading_process_may_do_nothing_else(deed: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    reader = Path(foreign.__file__).with_name("foreign_reader.py")
    script = f"import runpy, sys; r = runpy.run_path({str(reader)!r}); r['watch'](()); {deed}"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 13, done.stderr
    assert "refused: the file tried" in done.stderr


# --- MONAI --------------------------------------------------------------------------------------------------------


def a_bundle(folder: Path, **changes: Any) -> Path:
    from monai.networks.nets import SegResNet

    torch.manual_seed(1)
    net = SegResNet(
        spatial_dims=3, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)
    )
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    config = {
        "network_def": {"_target_": "SegResNet", "init_filters": 8, "in_channels": 1, "out_channels": 2,
                        "blocks_down": [1, 1], "blocks_up": [1]},
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0]},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -100, "a_max": 300, "b_min": 0.0,
             "b_max": 1.0, "clip": True}]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        **changes,
    }  # fmt: skip
    about = {
        "network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}}}
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(about))
    return folder


@pytest.mark.usefixtures("in_process")
def test_a_monai_bundle_answers_as_it_did_there(tmp_path: Path) -> None:
    from monai.networks.nets import SegResNet

    facts = import_monai(a_bundle(tmp_path / "b"), tmp_path / "m")
    net = SegResNet(
        spatial_dims=3, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)
    )
    net.load_state_dict(read_foreign(tmp_path / "b" / "models" / "model.pt").tensors)
    window = torch.randn(1, 1, 16, 16, 16)
    assert torch.allclose(load_model(tmp_path / "m").net(window), net.eval()(window), atol=1e-5)
    assert facts["plan"]["intensity"][0] == {
        "scheme": "window",
        "low": -100,
        "high": 300,
        "shift": -100.0,
        "scale": 400.0,
    }
    assert facts["plan"]["spacing_mm"] == [1.5, 1.5, 2.0]
    assert [c["name"] for c in facts["classes"]] == ["spleen"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network_def": {"_target_": "os.system", "command": "x"}}, "network 'system' is not in the table"),
        ({"network_def": "$__import__('os').system('x')"}, "is not in the table"),
        ({"inferer": {"roi_size": "$[16] * 3"}}, "inferer.roi_size is .* an expression"),
        ({"preprocessing": {"transforms": [{"_target_": "Mine"}]}}, "its steps Mine have no counterpart"),
        (
            {"preprocessing": {"transforms": [{"_target_": "Orientationd", "axcodes": "SPL"}]}},
            "turned to SPL",
        ),
    ],
)
def test_bundles_that_would_have_to_be_run_are_refused(change: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        import_monai(a_bundle(tmp_path / "b", **change), tmp_path / "m")
    assert not (tmp_path / "m").exists()
