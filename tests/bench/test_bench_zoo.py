"""The bench: what runs again and what does not, what a failing system does, what the page says."""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from medseg.bench import entries, one, run, table
from medseg.bench.baselines import INTENSITY, MAJORITY
from medseg.bench.children import Children
from medseg.bench.coordinator import Wish
from medseg.bench.recipe import Recipe, load_recipe
from medseg.config import System
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.train.schedule import Clock

SYSTEMS = ("u-net", "enet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one data set, `discs`: bright and dark discs, whose class is their brightness."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:48, :48]
    for number in range(8):
        label = np.zeros((48, 48), np.uint8)
        for kind in (1, 2):
            middle = rng.integers(12, 36, 2)
            label[(rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < 64] = kind
        image = np.array([100, 180, 30])[label] + rng.normal(0, 12, label.shape)
        for name, array in (("images", image.clip(0, 255).astype(np.uint8)), ("labels", label)):
            path = folder / "discs" / name / f"c{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(written(tmp_path / "recipe.yaml"))


def written(path: Path, steps: int = 3, more: str = "") -> Path:
    path.write_text(
        "name: zoo\nminutes: 1\nmargin: 0.02\nsizes: [tiny]\nreference: u-net\n"
        "common:\n"
        f"  train: {{steps: {steps}, augment: none, precision: fp32, patch_size: [32, 32], batch_size: 2}}\n"
        "  predict: {overlap: 0, precision: fp32}\n  score: {metrics: [dice, iou]}\n"
        "  compute: {device: cpu, cores: 1, workers: 1}\n"
        "data_sets:\n"
        "  discs:\n    title: Discs\n    cases: 2\n"
        "    pipeline: {data: {modality: other, classes: {bright: 1, dark: 2}, split: {folds: 4, fold: 0}}}\n"
        + more
    )
    return path


def measured(dice: float, miou: float) -> dict:
    return {
        "state": "done", "dice": dice, "miou": miou, "steps": 3, "step_seconds": 0.1, "image_seconds": 0.1, "batch": 2,
        "peak_ram_bytes": 10**9, "parameters": 1000, "gflop": 0.5, "patch": [32, 32], "device": "cpu", "cases": 2,
    }  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path) -> list[str]:
    """Entries without a process: the list says which systems were measured."""
    called: list[str] = []

    def instead(wish: Wish, job: one.Entry, children: object) -> dict:
        called.append(job.system)
        if job.system == "linknet":
            return {"state": "failed", "error": "RuntimeError: no such layer"}
        return measured(
            {MAJORITY: 0.1, INTENSITY: 0.4}.get(job.system, 0.8), 0.3 if job.system == "enet" else 0.5
        )

    monkeypatch.setattr(run, "measure_apart", instead)
    monkeypatch.setattr(run, "prepare", lambda wish, name, root: tmp_path / "work" / name)
    return called


def wish(recipe: Recipe, tmp_path: Path, data: Path, **options: object) -> Wish:
    given = {"systems": SYSTEMS, "track": False, **options}
    return Wish(recipe, tmp_path / "zoo", tmp_path / "work", data, **given)  # type: ignore[arg-type]


def test_a_second_call_measures_nothing(fake: list[str], recipe: Recipe, tmp_path: Path, data: Path) -> None:
    run.run(wish(recipe, tmp_path, data))
    assert sorted(fake) == sorted([MAJORITY, INTENSITY, *SYSTEMS])
    done = run.run(wish(recipe, tmp_path, data))
    assert len(fake) == 4
    assert (done.kept, done.measured) == (4, [])


def test_a_changed_recipe_or_a_lost_file_runs_again(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))
    (tmp_path / "zoo" / "discs" / "enet.json").write_text('{"state": "do')
    fake.clear()
    run.run(wish(recipe, tmp_path, data))
    assert fake == ["enet"]
    fake.clear()
    other = load_recipe(written(tmp_path / "other.yaml", steps=4))
    run.run(wish(other, tmp_path, data))
    assert len(fake) == 4


def test_the_key_follows_the_code_of_a_system_and_of_what_it_imports(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.bench import sources
    from medseg.zoo.build import find

    names = {path.name for path in sources.files_of(find("linknet"))}
    assert {"linknet.py", "resnet.py", "table.py", "conv.py"} <= names
    assert "enet.py" not in names
    before = {name: entries.key_of(recipe, "discs", name) for name in SYSTEMS}
    card = find("enet")
    monkeypatch.setattr(entries, "digest_of", lambda c: "changed" if c is card else sources.digest_of(c))
    after = {name: entries.key_of(recipe, "discs", name) for name in SYSTEMS}
    assert before["enet"] != after["enet"]
    assert before["u-net"] == after["u-net"]


def test_words_about_the_code_are_no_part_of_it(tmp_path: Path) -> None:
    from medseg.bench.sources import code_of

    bare, told, other = (tmp_path / f"{name}.py" for name in ("bare", "told", "other"))
    bare.write_text("WIDTH = 4\ndef double(x):\n    return 2 * x\n")
    told.write_text(
        '"""A file.\n\nOf two lines.\n"""\nWIDTH = 4\n"""Channels."""\n\n\n# doubles\ndef double(x):\n    """Twice."""\n    return 2 * x\n'
    )
    other.write_text('WIDTH = 4\ndef double(x):\n    """Twice."""\n    return 3 * x\n')
    assert code_of(told) == code_of(bare) != code_of(other)


def test_a_failing_system_is_an_entry_and_the_others_go_on(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    done = run.run(wish(recipe, tmp_path, data, systems=("linknet", "u-net")))
    assert [entry["error"] for entry in done.failed] == ["RuntimeError: no such layer"]
    assert read_json(tmp_path / "zoo" / "discs" / "linknet.json")["state"] == "failed"
    assert "u-net" in {entry["system"] for entry in done.measured}
    assert "- `linknet`: RuntimeError: no such layer" in table.page(recipe, tmp_path / "zoo")
    fake.clear()
    run.run(wish(recipe, tmp_path, data, systems=("linknet", "u-net")))
    assert fake == []
    run.run(wish(recipe, tmp_path, data, systems=("linknet", "u-net"), retry=True))
    assert fake == ["linknet"]


def test_minutes_are_the_process_own_so_that_other_work_takes_no_steps_from_an_entry() -> None:
    own = iter((5.0, 35.0, 65.0))  # half a minute of its own, however long the wall's was, and another
    clock = Clock(minutes=1.0, steps=None, timer=lambda: next(own))
    clock.run()
    assert clock.t == 0.5
    assert clock.is_over
    assert (one.timer_of("cpu"), one.timer_of("cuda")) == (time.process_time, time.monotonic)


def test_shards_share_the_entries_out() -> None:
    pairs = [("a", str(n)) for n in range(7)]
    parts = [entries.of_shard(pairs, f"{n}/3") for n in (1, 2, 3)]
    assert sorted(pair for part in parts for pair in part) == pairs
    for wrong in ("0/3", "4/3", "2", "a/b"):
        with pytest.raises(UserError, match="is no shard"):
            entries.of_shard(pairs, wrong)


def test_learning_means_to_beat_both_baselines_in_both_measures(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))
    found = entries.read_all(tmp_path / "zoo", "discs")
    # The fake baselines have an mIoU of 0.5: enet (0.3) and u-net (0.5) beat them in Dice alone.
    assert table.above_baselines(found["enet"], found) == pytest.approx(-0.2)
    assert table.learns(found["u-net"], found, 0.02) is False
    assert table.learns({**found["u-net"], "miou": 0.53}, found, 0.02) is True
    assert table.learns(found["u-net"], {"u-net": found["u-net"]}, 0.02) is None


def test_a_system_that_does_not_learn_is_trained_again_at_the_next_rate_and_the_better_stands(
    recipe: Recipe, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    dice = {
        MAJORITY: {0: 0.1},
        INTENSITY: {0: 0.4},
        "u-net": {0: 0.8},
        "enet": {0: 0.41, 0.003: 0.7, 0.01: 0.2},
    }
    dice["linknet"] = {0: 0.3, 0.003: 0.2, 0.01: 0.1}

    def instead(wish: Wish, job: one.Entry, children: object) -> dict:
        rate = job.recipe.common["train"].get("optimizer", {}).get("rate", 0)
        seen.append((job.system, rate))
        value = dice[job.system][rate]
        return measured(value, value)

    monkeypatch.setattr(run, "measure_apart", instead)
    monkeypatch.setattr(run, "prepare", lambda wish, name, root: tmp_path / "work" / name)
    eager = recipe.model_copy(update={"more_rates": [0.003, 0.01]})
    run.run(wish(eager, tmp_path, data, systems=("u-net", "enet", "linknet")))
    assert [rate for name, rate in seen if name == "u-net"] == [0]
    assert [rate for name, rate in seen if name == "enet"] == [0, 0.003]
    assert [rate for name, rate in seen if name == "linknet"] == [0, 0.003, 0.01]
    found = entries.read_all(tmp_path / "zoo", "discs")
    assert (found["enet"]["dice"], found["enet"]["rate"]) == (0.7, 0.003)
    assert (found["linknet"]["dice"], "rate" in found["linknet"]) == (0.3, False)
    page = table.page(eager, tmp_path / "zoo")
    assert "At another learning rate than the first: `enet` 0.003." in page
    assert "learning rate of 0.003, 0.01" in page


def test_a_system_that_learns_at_no_rate_gets_more_minutes_and_is_not_tried_again_after_them(
    recipe: Recipe, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float, float]] = []
    dice = {MAJORITY: {}, INTENSITY: {(1, 0): 0.4}, "u-net": {(1, 0): 0.8}}
    dice["enet"] = {(1, 0): 0.3, (1, 0.003): 0.41, (4, 0): 0.7}
    dice["linknet"] = {(1, 0): 0.35, (1, 0.003): 0.3, (4, 0): 0.2, (4, 0.003): 0.1}

    def instead(wish: Wish, job: one.Entry, children: object) -> dict:
        rate = job.recipe.common["train"].get("optimizer", {}).get("rate", 0)
        seen.append((job.system, job.recipe.settings("discs")["train"]["minutes"], rate))
        value = dice[job.system].get((job.recipe.minutes, rate), 0.1)
        return measured(value, value)

    monkeypatch.setattr(run, "measure_apart", instead)
    monkeypatch.setattr(run, "prepare", lambda wish, name, root: tmp_path / "work" / name)
    named = {"systems": ("u-net", "enet", "linknet")}
    short = recipe.model_copy(update={"more_rates": [0.003]})
    run.run(wish(short, tmp_path, data, **named))
    assert [seen.count((name, 1, 0)) for name in ("u-net", "enet", "linknet")] == [1, 1, 1]
    seen.clear()
    patient = short.model_copy(update={"more_minutes": 4.0})
    run.run(wish(patient, tmp_path, data, **named))  # the key is the same, but two of them have not learnt
    assert [row[1:] for row in seen if row[0] == "enet"] == [(1, 0), (1, 0.003), (4, 0)]
    assert [row[1:] for row in seen if row[0] == "linknet"] == [(1, 0), (1, 0.003), (4, 0), (4, 0.003)]
    assert {row[0] for row in seen} == {"enet", "linknet"}
    seen.clear()
    run.run(wish(patient, tmp_path, data, **named))
    assert seen == []
    found = entries.read_all(tmp_path / "zoo", "discs")
    assert (found["enet"]["dice"], found["enet"]["minutes"]) == (0.7, 4)
    assert (found["linknet"]["dice"], found["linknet"]["minutes"]) == (0.35, 1)
    page = table.page(patient, tmp_path / "zoo")
    assert "Trained for 4 min: `enet`." in page
    assert "Tried for longer as well, with a lower Dice: `linknet`." in page
    assert "gets 4 min at each rate" in page


def test_minutes_that_are_asked_for_bound_every_training_of_a_system() -> None:
    shipped, asked = load_recipe(), load_recipe(minutes=0.5)
    assert (shipped.more_minutes or 0) > shipped.minutes
    assert {trial.minutes for _, trial in asked.trials()} == {0.5}
    for _, trial in shipped.trials():  # as the process of an entry gets it
        assert Recipe.model_validate(trial.model_dump(mode="json")) == trial
    with pytest.raises(ValidationError, match="more_minutes 1 has to be more than minutes 1"):
        Recipe(**{**shipped.model_dump(), "more_minutes": 1.0})


def test_the_page_says_which_systems_learn_in_the_learning_check_alone(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))  # neither u-net nor enet beats the fake baselines' mIoU
    for name, learns in (("u-net", True), ("enet", False)):
        facts = {"dice": 0.81, "baseline": 0.34, "learns": learns}
        write_json(tmp_path / "zoo" / "learns" / f"{name}-2d.json", facts)
    page = table.page(recipe, tmp_path / "zoo")
    line = next(line for line in page.splitlines() if line.startswith("Do not learn here"))
    assert line.endswith("(zoo/learns/README.md): `u-net` (Dice 0.810, by intensity alone 0.340).")


def test_the_page_names_entries_that_the_recipe_left_behind(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))
    assert "earlier recipe" not in table.page(recipe, tmp_path / "zoo")
    changed = load_recipe(written(tmp_path / "other.yaml", steps=4))
    page = table.page(changed, tmp_path / "zoo")
    assert "By an earlier recipe or code" in page
    assert "`enet` 1" in page.split("By an earlier recipe or code")[1]


def test_the_page_ranks_by_dice_and_lists_what_was_not_run(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))
    enet = entries.path_of(tmp_path / "zoo", "discs", "enet")
    write_json(enet, {**read_json(enet), "dice": 0.9})
    page = table.page(recipe, tmp_path / "zoo")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert [row.split("|")[2].strip() for row in rows[1:]] == [
        "`enet`",
        "`u-net`",
        f"`{MAJORITY}`",
        f"`{INTENSITY}`",
    ]
    assert "Not run yet" in page
    assert "`v-net`" in page.split("Not run yet")[1]
    assert "`threshold-otsu`" in page.split("Not in this table")[1]
    ranks = table.ranks(recipe, tmp_path / "zoo")["discs"]
    assert (ranks["of"], ranks["systems"]["u-net"]["rank"]) == (2, 2)


OWN = "    systems:\n      enet: {ingest: {spacing_px: [0.5, 0.5]}, train: {patch_size: [64, 64]}}\n"


def test_settings_of_one_system_change_its_entry_alone_and_stand_on_the_page(
    fake: list[str], recipe: Recipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))
    fake.clear()
    own = load_recipe(written(tmp_path / "own.yaml", more=OWN))
    run.run(wish(own, tmp_path, data))
    assert fake == ["enet"]
    assert own.pipeline("discs", System(name="enet"), None).ingest.spacing_px == [0.5, 0.5]
    assert own.pipeline("discs", System(name="u-net"), None).ingest.spacing_px is None
    page = table.page(own, tmp_path / "zoo")
    assert "recipe: `enet` ingest.spacing_px [0.5, 0.5], train.patch_size [64, 64].\n" in page
    assert "With settings of its own" not in table.page(recipe, tmp_path / "zoo")


def test_settings_are_named_for_a_system_by_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no system named 'ennet'.*enet"):
        load_recipe(written(tmp_path / "wrong.yaml", more=OWN.replace("enet", "ennet")))
    with pytest.raises(UserError, match=r"named for 'unet', which is 'u-net'"):
        load_recipe(written(tmp_path / "alias.yaml", more=OWN.replace("enet", "unet")))


def test_unknown_names_and_absent_data_are_said(recipe: Recipe, tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="did you mean u-net"):
        run.run(wish(recipe, tmp_path, data, systems=("u-nett",)))
    with pytest.raises(UserError, match="did you mean discs"):
        run.run(wish(recipe, tmp_path, data, data_sets=("disc",)))
    with pytest.raises(UserError, match="there is no folder 'discs'"):
        run.run(wish(recipe, tmp_path, tmp_path))


def test_a_process_that_dies_is_a_failed_entry(
    recipe: Recipe, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -9 $$\n")
    dying.chmod(dying.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(sys, "executable", str(dying))
    job = one.Entry(recipe, "discs", "u-net", "tiny", data / "discs", tmp_path / "work" / "discs", "key")
    found = run.measure_apart(wish(recipe, tmp_path, data), job, Children())
    assert found["state"] == "failed"
    assert "SIGKILL" in found["error"]


def test_a_real_entry_is_trained_scored_and_tracked(tmp_path: Path, data: Path) -> None:
    """Baselines and a network in processes of their own; every column is there, MLflow has a run an entry."""
    recipe = load_recipe(written(tmp_path / "recipe.yaml", steps=40))
    done = run.run(wish(recipe, tmp_path, data, systems=("u-net",), track=True))
    assert done.failed == []
    by_name = {entry["system"]: entry for entry in done.measured}
    net = by_name["u-net"]
    assert (net["steps"], net["cases"], net["size"]) == (40, 2, "tiny")
    assert net["peak_ram_bytes"] > 10**8
    assert 0 < net["gflop"] < 1
    # Brightness tells these discs apart: the intensity baseline finds them, the majority class does not.
    assert by_name[INTENSITY]["dice"] > 0.6 > 0.2 > by_name[MAJORITY]["dice"]
    assert set(net["classes"]) == {"bright", "dark"}
    assert not list((tmp_path / "work" / "discs").glob("systems/*"))

    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bench-zoo")
    runs = client.search_runs([experiment.experiment_id])
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == done.mlflow_run_id]
    assert len(runs) == 4
    assert sorted(r.data.params["system"] for r in nested) == sorted([MAJORITY, INTENSITY, "u-net"])


def test_cases_are_taken_evenly() -> None:
    assert one.evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert one.evenly([1, 2], 5) == [1, 2]


def test_the_shipped_recipe_names_real_things() -> None:
    recipe = load_recipe()
    for data_set in recipe.data_sets:
        assert entries.systems_for(recipe, data_set)
        recipe.pipeline(data_set, System(name="u-net"), None)
    assert load_recipe(minutes=0.5).settings("camvid")["train"]["minutes"] == 0.5
    assert load_recipe(overrides=("train.batch_size=1",)).settings("camvid")["train"]["batch_size"] == 1


def test_the_verb_writes_the_page_without_measuring(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    from medseg.cli import _main

    assert _main(["bench", "zoo", "--table", "--out", str(tmp_path / "zoo"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["page"].endswith("zoo.md")
    assert "Not run yet" in (tmp_path / "zoo.md").read_text()
