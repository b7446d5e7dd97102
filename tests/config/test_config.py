"""The pipeline file: every fault at once, with file, line, key and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.config import Pipeline, Plan
from medseg.config_file import load_pipeline, read_yaml, save_pipeline
from medseg.config_plan import load_plan, save_plan
from medseg.core import UserError

GOOD = "name: x\nsystem: 3d-u-net\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_pipeline(write(tmp_path, text), overrides)
    return str(caught.value)


def test_all_faults_come_at_once_with_their_lines(tmp_path: Path) -> None:
    said = message(tmp_path, GOOD + "train:\n  stepz: 5\n  schedule: polly\npredict: {overlap: 2}\n")
    assert "has 3 faults" in said
    assert "p.yaml line 4  train.stepz: unknown key, did you mean steps?" in said
    assert "line 5  train.schedule: must be one of poly, cosine, constant, did you mean poly?" in said
    assert "line 6  predict.overlap: Input should be less than 0.9, got 2" in said


def test_an_unknown_top_level_key_is_named(tmp_path: Path) -> None:
    assert "trian: unknown key, did you mean train?" in message(tmp_path, GOOD + "trian: {}\n")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "given twice" in message(tmp_path, GOOD + "name: y\n")


def test_a_tab_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 4" in message(tmp_path, GOOD + "train:\n\tsteps: 5\n")


def test_an_anchor_bomb_is_refused_before_it_is_built(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    assert "aliases" in message(tmp_path, bomb)


def test_a_tag_that_would_build_an_object_is_refused(tmp_path: Path) -> None:
    assert "tags" in message(tmp_path, "name: !!python/object/apply:os.system [ls]\nsystem: x\n")


def test_depth_and_size_have_limits(tmp_path: Path) -> None:
    assert "nested deeper" in message(tmp_path, "a: " + "[" * 30 + "]" * 30 + "\n")
    assert "bytes" in message(tmp_path, GOOD + "#" * 1_000_001)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such pipeline file"):
        load_pipeline(tmp_path / "absent.yaml")


def test_a_folder_instead_of_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_pipeline(tmp_path)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_pipeline(path).name == "x"


def test_numbers_and_words_are_read_as_people_mean_them(tmp_path: Path) -> None:
    pipeline = load_pipeline(
        write(tmp_path, GOOD + "train: {optimizer: {rate: 1e-3}}\nreport: {title: NO}\n")
    )
    assert pipeline.train.optimizer.rate == 0.001
    assert pipeline.report.title == "NO"


def test_an_override_wins_and_its_faults_are_named(tmp_path: Path) -> None:
    assert load_pipeline(write(tmp_path, GOOD), ["train.steps=7"]).train.steps == 7
    assert "--set  train.steps: Input should be" in message(tmp_path, GOOD, "train.steps=many")
    assert "expected key=value" in message(tmp_path, GOOD, "train.steps")
    assert "--set  trian: unknown key, did you mean train?" in message(tmp_path, GOOD, "trian.steps=5")
    assert "--set  train: has keys of its own: minutes, steps" in message(tmp_path, GOOD, "train=5")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "predict.guided_filter=null",
            "predict.guided_filter: has keys of its own: radius_mm, epsilon, iterations, background, or is auto or none, got None",
        ),
        ("predict.window=96", "predict.window: Input should be a valid list, or is auto, got 96"),
        ("predict.guided_filter=nun", "predict.guided_filter: must be one of auto, none, did you mean none?"),
        (
            "predict.guided_filter.radius=3",
            "predict.guided_filter.radius: unknown key, did you mean radius_mm?",
        ),
    ],
)
def test_a_value_of_several_forms_is_refused_with_all_of_them(
    tmp_path: Path, setting: str, words: str
) -> None:
    assert words in message(tmp_path, GOOD, setting)


@pytest.mark.parametrize("text", ["1GBB", "many", "0", "-3"])
def test_an_amount_of_memory_that_cannot_be_read_is_refused_before_any_work(
    tmp_path: Path, text: str
) -> None:
    assert "no amount of memory; write it like 6 GB" in message(tmp_path, GOOD, f"compute.ram={text}")


def test_a_system_can_be_overridden_part_by_part(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path, GOOD), ["system.size=tiny"])
    assert (pipeline.only_system.name, pipeline.only_system.size) == ("3d-u-net", "tiny")


def test_later_files_win_over_included_ones(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {steps: 5, loss: ce}\npredict: {overlap: 0.25}\n")
    pipeline = load_pipeline(write(tmp_path, "include: base.yaml\n" + GOOD + "train: {steps: 9}\n"))
    assert (pipeline.train.steps, pipeline.train.loss, pipeline.predict.overlap) == (9, "ce", 0.25)


def test_a_fault_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("\ntrain: {stps: 5}\n")
    assert "base.yaml line 2  train.stps" in message(tmp_path, "include: base.yaml\n" + GOOD)


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    assert "includes itself" in message(tmp_path, "include: p.yaml\n" + GOOD)


@pytest.mark.parametrize(
    "text", ["{left lung: 1, right lung: [2, 3]}", "{1: left lung, right lung: {values: [2, 3]}}"]
)
def test_classes_are_written_in_either_direction(tmp_path: Path, text: str) -> None:
    classes = load_pipeline(write(tmp_path, GOOD + f"data: {{classes: {text}}}\n")).data.classes
    assert {name: spec.values for name, spec in classes.items()} == {"left lung": [1], "right lung": [2, 3]}


def test_classes_overlap_when_they_share_a_value_or_lie_in_different_maps(tmp_path: Path) -> None:
    def overlap(classes: str) -> bool:
        return load_pipeline(write(tmp_path, GOOD + f"data: {{classes: {classes}}}\n")).data.overlapping

    assert not overlap("{a: 1, b: 2}")
    assert overlap("{whole: [1, 2], core: 2}")
    assert overlap("{lung: 1, heart: {values: 1, column: label_heart}}")


def test_what_is_saved_reads_back_equal_and_spells_out_defaults(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path, GOOD + "data: {classes: {a: 1}}\n"))
    save_pipeline(pipeline, tmp_path / "saved.yaml", "0")
    assert "overlap: 0.5" in (tmp_path / "saved.yaml").read_text()
    assert load_pipeline(tmp_path / "saved.yaml") == pipeline


def test_a_plan_keeps_its_reasons_beside_its_values(tmp_path: Path) -> None:
    plan = Plan(dims=3, in_channels=1, classes=[], out_channels=2, intensity=[{"scheme": "zscore"}], patch_size=[64, 64, 64],
                batch_size=2, reasons={"patch_size": "largest that fits 6 GB"})  # fmt: skip
    save_plan(plan, tmp_path / "plan.yaml")
    assert "# largest that fits 6 GB" in (tmp_path / "plan.yaml").read_text()
    assert load_plan(tmp_path / "plan.yaml") == plan


def test_every_setting_has_a_meaning() -> None:
    def missing(kind: type, prefix: str = "") -> list[str]:
        from medseg.config_file import _sections_in

        out = []
        for name, field in kind.model_fields.items():
            if not field.description:
                out.append(prefix + name)
            for section in _sections_in(field.annotation):
                out += missing(section, f"{prefix}{name}.")
        return out

    assert missing(Pipeline) == []


def test_a_list_is_no_pipeline_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no pipeline file"):
        read_yaml(write(tmp_path, "- a\n- b\n"))


def test_shipped_presets_can_be_included(tmp_path: Path) -> None:
    presets = (Path(__file__).parents[2] / "configs").rglob("*.yaml")
    for preset in (
        p for p in presets if p.parent.name != "bench"
    ):  # recipes of `medseg bench` are no presets
        pipeline = load_pipeline(write(tmp_path, f"include: {preset}\n{GOOD}"))
        assert pipeline.train.minutes or pipeline.train.steps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ingest: {spacing_mm: [2, 2, -1]}", "p.yaml line 3  ingest.spacing_mm.2: Input should be greater than 0, got -1"),
        ("ingest: {spacing_mm: [.nan, 2, 2]}", "line 3  ingest.spacing_mm.0: Input should be a finite number, got nan"),
        ("ingest: {spacing_mm: [2]}", "line 3  ingest.spacing_mm: List should have at least 2 items"),
        ("ingest: {spacing_mm: atuo}", "line 3  ingest.spacing_mm: must be one of auto, did you mean auto?, got 'atuo'"),
        ("train: {batch_size: mesured}", "line 3  train.batch_size: must be one of auto, measured, did you mean measured?"),
        ("train: {batch_size: 0}", "line 3  train.batch_size: Input should be greater than or equal to 1, got 0"),
        ("train: {class_weights: {a: -1}}", "line 3  train.class_weights.a: Input should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_a_value_of_several_forms_has_one_fault_that_of_the_form_that_was_meant(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"name: x\nsystem: u-net\n{text}\n")
    with pytest.raises(UserError) as caught:
        load_pipeline(path)
    assert len(caught.value.faults) == 1
    assert words in caught.value.faults[0]


def test_a_list_given_by_set_is_not_blamed_on_the_line_that_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: x\nsystem: u-net\ningest: {spacing_mm: [1, 1, 1]}\n")
    with pytest.raises(UserError) as caught:
        load_pipeline(path, ["ingest.spacing_mm=[2, 2, 0]"])
    assert caught.value.faults == ("--set  ingest.spacing_mm.2: Input should be greater than 0, got 0",)


def test_an_error_that_names_a_key_gets_its_line_at_the_door(tmp_path: Path) -> None:
    from medseg.config_file import placed

    path = tmp_path / "p.yaml"
    path.write_text("name: x\nsystem: u-net\ntrain:\n  steps: 3\n  from: elsewhere\n")
    pipeline = load_pipeline(path)
    for where, found in (
        ("train.start_from", "p.yaml line 5  train.start_from"),
        ("train.start_from, system.name", "p.yaml line 5  train.start_from, system.name"),
        ("predict.flips: true", "predict.flips: true"),
        ("train.v2/old", "train.v2/old"),
        ("case a", "case a"),
    ):
        with pytest.raises(UserError) as caught, placed(pipeline):
            raise UserError("no", where)
        assert caught.value.where == found
