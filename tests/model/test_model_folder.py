"""A model folder can be trusted, or it is refused with a sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, System
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Code
from medseg.model import facts as model_facts
from medseg.model.folder import (
    build_system,
    copy_model,
    load_facts,
    load_model,
    read_weights,
    save_model,
    verify_model,
)

LUNG = ClassInfo("left lung", 3, (10, 20, 30), Code("44029006", "SCT", "Left lung structure"), "left")
U_NET = System(name="u-net", size="tiny")


def a_plan(**changes: object) -> Plan:
    values: dict = {
        "dims": 3,
        "in_channels": 1,
        "classes": [LUNG.as_json()],
        "out_channels": 2,
        "spacing_mm": [2.0, 2.0, 3.0],
        "intensity": [IntensityPlan(scheme="window", low=-1000, high=400)],
        "patch_size": [32, 32, 32],
        "batch_size": 2,
        "volume_ml": {"left lung": [900.0, 2600.0]},
        "reasons": {"patch_size": "fits"},
    }
    return Plan(**{**values, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    folder = tmp_path / "Modell mit Lücke 模型"
    save_model(
        folder, build_system(U_NET, a_plan()), system=U_NET, plan=a_plan(), scores={"dice": 0.9, "n": 4}
    )
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    """Changes entries of model.json as somebody with an editor and the hash function would."""
    facts = json.loads((folder / "model.json").read_text())
    facts = {**facts, **changes}
    facts["hash"] = model_facts.model_hash(facts)
    (folder / "model.json").write_text(json.dumps(facts))


def put_weights(folder: Path, payload: bytes) -> None:
    """Exchanges the weights together with their stored sha256."""
    (folder / "model.safetensors").write_bytes(payload)
    rewrite(folder, weights={"sha256": hashlib.sha256(payload).hexdigest()})


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_loaded_network_computes_what_the_saved_one_did(tmp_path: Path) -> None:
    net = build_system(U_NET, a_plan()).eval()
    digest = save_model(tmp_path / "model", net, system=U_NET, plan=a_plan(), data_hash="d1")
    model = load_model(tmp_path / "model")
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(net(image), model.net(image))
    assert model.hash == digest == model.facts["hash"]
    assert model.classical is None
    assert not model.net.training


def test_plan_classes_codes_and_volumes_come_back(saved: Path) -> None:
    model = load_model(saved)
    assert model.plan == a_plan()
    assert model.classes == (LUNG,)
    assert model.system == U_NET
    assert model.facts["volume_ml"] == {"left lung": [900.0, 2600.0]}
    assert model.facts["scores"] == {"dice": 0.9, "n": 4}
    assert model.facts["versions"]["torch"]
    assert "Not a medical device" in model.facts["intended_use"]
    assert model.facts["weights"]["parameters"] == sum(p.numel() for p in model.net.parameters())


def test_licence_can_be_stated_but_facts_cannot_be_replaced(tmp_path: Path) -> None:
    extra = {"licence": "CC-BY-4.0", "training": {"steps": 5}, "system": {"name": "v-net"}}
    save_model(tmp_path / "m", build_system(U_NET, a_plan()), system=U_NET, plan=a_plan(), extra=extra)
    facts = load_facts(tmp_path / "m")
    assert facts["licence"] == "CC-BY-4.0"
    assert facts["training"] == {"steps": 5}
    assert facts["system"]["name"] == "u-net"


def test_the_hash_follows_the_weights_and_the_plan_but_not_the_explanations(tmp_path: Path) -> None:
    net = build_system(U_NET, a_plan())

    def hash_of(plan: Plan, name: str) -> str:
        return save_model(tmp_path / name, net, system=U_NET, plan=plan)

    first = hash_of(a_plan(), "a")
    assert hash_of(a_plan(reasons={}, estimate={"minutes": 3}), "b") == first
    assert hash_of(a_plan(spacing_mm=[1.0, 1.0, 1.0]), "c") != first
    with torch.no_grad():
        next(net.parameters()).add_(1e-3)
    assert hash_of(a_plan(), "d") != first


def test_weights_are_mapped_from_the_file_and_not_copied(saved: Path) -> None:
    from safetensors import safe_open

    weights = load_model(saved).net.state_dict()
    starts = sorted(value.data_ptr() for value in weights.values())
    with safe_open(str(saved / "model.safetensors"), framework="pt") as stored:
        total = sum(stored.get_tensor(name).nbytes for name in stored.keys())  # noqa: SIM118
    # one stretch of address space as long as the file's data: each tensor is a view of it
    assert starts[-1] - starts[0] < total + 4096


def test_a_classical_system_is_a_model_without_weights(tmp_path: Path) -> None:
    otsu = System(name="threshold-otsu")
    save_model(tmp_path / "m", None, system=otsu, plan=a_plan())
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["model.json"]
    model = load_model(tmp_path / "m")
    assert model.net is None
    assert hasattr(model.classical, "segment")
    with pytest.raises(UserError, match="classical system threshold-otsu, which has no weights"):
        read_weights(tmp_path / "m")


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(saved: Path) -> None:
    before = load_facts(saved)["hash"]
    with_net = build_system(U_NET, a_plan())
    after = save_model(saved, with_net, system=U_NET, plan=a_plan())
    assert load_facts(saved)["hash"] == after != before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_failed_save_keeps_the_old_model(saved: Path) -> None:
    before = load_facts(saved)["hash"]
    with pytest.raises(ValueError, match="JSON"):
        save_model(saved, None, system=U_NET, plan=a_plan(), scores={"dice": float("nan")})
    assert load_facts(saved)["hash"] == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_copy_is_the_same_model(saved: Path, tmp_path: Path) -> None:
    copy_model(saved, tmp_path / "copy")
    assert load_model(tmp_path / "copy").hash == load_model(saved).hash


def test_facts_are_read_without_torch(saved: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medseg.model.folder import load_facts; "
        f"load_facts(Path({str(saved)!r})); print([m for m in ('torch', 'monai', 'safetensors') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class Malice:
    """A pickle that leaves a file behind when somebody unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_malicious_pickle_named_as_weights_is_refused_and_never_run(saved: Path, form: str) -> None:
    trace = saved.parent / "was-run"
    payload = io.BytesIO()
    if form == "pickle":
        payload.write(pickle.dumps(Malice(trace)))
    else:
        torch.save({"weights": Malice(trace)}, payload)
    (saved / "model.safetensors").write_bytes(payload.getvalue())
    assert "expected weights with sha256" in refused(saved)
    put_weights(saved, payload.getvalue())
    assert "expected a safetensors file, found something else" in refused(saved)
    assert not trace.exists()


def test_a_pickle_named_model_json_is_refused(saved: Path) -> None:
    trace = saved.parent / "was-run"
    (saved / "model.json").write_bytes(pickle.dumps(Malice(trace)))
    assert "expected JSON, found something else" in refused(saved)
    assert not trace.exists()


def test_damaged_weights_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    message = refused(saved)
    assert "expected weights with sha256" in message
    assert "copy the model folder again" in message


@pytest.mark.parametrize("name", ["data.pkl", "model.pt", "weights.bin"])
def test_further_files_are_refused(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"x")
    assert f"expected only model.json and model.safetensors, found {name} as well" in refused(saved)


def test_hidden_files_of_file_browsers_do_no_harm(saved: Path) -> None:
    (saved / ".DS_Store").write_bytes(b"x")
    assert load_model(saved).net is not None


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_links_are_refused(saved: Path, name: str) -> None:
    elsewhere = saved.parent / "elsewhere"
    (saved / name).rename(elsewhere)
    (saved / name).symlink_to(elsewhere)
    assert "link" in refused(saved)


def test_missing_parts_are_named(saved: Path, tmp_path: Path) -> None:
    assert "no such model folder" in refused(tmp_path / "nowhere")
    (saved / "model.safetensors").unlink()
    assert "expected model.safetensors, found no such file" in refused(saved)
    (saved / "model.json").unlink()
    (saved / "checkpoint_final.pth").write_bytes(b"x")
    assert "expected model.json in the model folder, found checkpoint_final.pth" in refused(saved)


def test_a_pipe_named_as_weights_is_not_waited_on(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    os.mkfifo(saved / "model.safetensors")
    assert "expected model.safetensors, found no such file" in refused(saved)


def test_an_unknown_format_is_refused(saved: Path) -> None:
    rewrite(saved, format=99)
    message = refused(saved)
    assert "expected model format 1, found 99" in message
    assert "update medseg" in message


def test_a_missing_plan_is_refused(saved: Path) -> None:
    facts = json.loads((saved / "model.json").read_text())
    del facts["plan"]
    (saved / "model.json").write_text(json.dumps(facts))
    assert "plan missing" in refused(saved)


def test_a_wrong_plan_is_refused_with_its_key(saved: Path) -> None:
    rewrite(saved, plan={**a_plan().model_dump(mode="json"), "dims": 7})
    assert "dims" in refused(saved)
    rewrite(saved, plan={**a_plan().model_dump(mode="json"), "out_channels": 5})
    assert "expected 2 output channels for 1 classes, found 5" in refused(saved)


def test_an_edited_file_is_noticed(saved: Path) -> None:
    text = (saved / "model.json").read_text()
    (saved / "model.json").write_text(text.replace("-1000", "-900"))
    message = refused(saved)
    assert "model.json was changed after it was written" in message


def test_wrong_kinds_and_shapes_of_entries_are_refused(saved: Path) -> None:
    path = saved / "model.json"
    path.write_text("[1, 2]")
    assert "expected a JSON object, found a list" in refused(saved)
    path.write_text("[" * 200_000)
    assert "expected JSON" in refused(saved)


def test_weights_of_another_system_are_refused_with_names_and_shapes(saved: Path) -> None:
    from safetensors.torch import save

    put_weights(saved, save({"somewhere.weight": torch.zeros(3, 3)}))
    message = refused(saved)
    assert "do not fit the system" in message
    assert "found none" in message
    weights = build_system(U_NET, a_plan(in_channels=2)).state_dict()
    put_weights(saved, save(weights))
    assert "found (" in refused(saved)


def test_a_system_of_a_missing_package_names_the_package(saved: Path) -> None:
    facts = json.loads((saved / "model.json").read_text())
    rewrite(saved, system={**facts["system"], "name": "their-net", "package": "their_package"})
    message = refused(saved)
    assert "needs the system their-net of the package their_package" in message
    assert "install their_package" in message


def test_verification_builds_nothing(saved: Path) -> None:
    rewrite(saved, system={"name": "no-such-net", "size": "paper", "arguments": {}})
    assert verify_model(saved)["system"]["name"] == "no-such-net"


def test_shared_and_strided_tensors_are_written(tmp_path: Path) -> None:
    net = build_system(U_NET, a_plan()).to(memory_format=torch.channels_last_3d)
    save_model(tmp_path / "m", net, system=U_NET, plan=a_plan())
    loaded = load_model(tmp_path / "m").net.state_dict()
    assert all(np.array_equal(loaded[k].numpy(), v.detach().numpy()) for k, v in net.state_dict().items())


def test_a_size_whose_numbers_changed_since_the_training_is_refused(saved: Path) -> None:
    facts = json.loads((saved / "model.json").read_text())
    assert facts["system"]["size_arguments"] == {"features": [4, 8, 16], "norm": "instance"}
    changed = {"features": [4, 8, 16], "norm": "batch", "dropout": 0.3}
    rewrite(saved, system={**facts["system"], "size_arguments": changed})
    said = refused(saved)
    assert "size tiny of u-net has changed since this model was trained" in said
    assert "norm was batch, is instance" in said
    assert "dropout was 0.3, is not set" in said


def test_a_model_from_before_sizes_were_written_down_still_loads(saved: Path) -> None:
    system = json.loads((saved / "model.json").read_text())["system"]
    del system["size_arguments"]
    rewrite(saved, system=system)
    assert load_model(saved).system == U_NET
