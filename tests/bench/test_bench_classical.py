"""The bench of classical methods: rules and prompts, what runs again, what a failing method does, what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.bench.children import Children
from medseg.bench.classical import fit, measure, run, table
from medseg.bench.classical.images import Sample, block_means, drawn_chest, samples
from medseg.bench.classical.recipe import ClassicalRecipe, load_recipe
from medseg.bench.classical.rules import best_union, box_around, dots, inside, object_in, parted, prompt_for
from medseg.bench.coordinator import Wish
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.metrics.boundaries import BoundaryCounts
from medseg.zoo.build import find

METHODS = ("threshold-otsu", "edge-sobel")

RECIPE = """
name: classical
cpu_seconds: {limit}
data_sets:
  discs:
    title: Discs
    reader: masks
    cases: 3
    prompts: seeds
    rule: minority
    arguments: {{threshold-fixed: {{low: {low}}}}}
  people:
    title: Squares that three people divided
    reader: bsds
    cases: 2
    sweeps: {{"threshold-multi-otsu": {{levels: [2, 3]}}}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`discs`: two bright discs on dark ground; `people`: a bright square, which three people found."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:60, :60]
    for number in range(4):
        disc = (rows - 20) ** 2 + (columns - 20 - 3 * number) ** 2 < 80
        other = (rows - 45) ** 2 + (columns - 45) ** 2 < 50
        save(
            folder / "discs" / "images" / f"c{number}.png",
            60 + 120 * (disc | other) + rng.normal(0, 8, disc.shape),
        )
        save(folder / "discs" / "labels" / f"c{number}.png", disc + 2 * other)
    for number in range(2):
        rows, columns = np.mgrid[:240, :240]
        square = (abs(rows - 120) < 60 + number) & (abs(columns - 120) < 60)
        save(
            folder / "people" / "test" / "images" / f"{number}.png",
            50 + 150 * square + rng.normal(0, 3, rows.shape),
        )
        for person in range(1, 4):
            drawn = 1 + np.roll(square, person - 2, axis=1)
            save(folder / "people" / "test" / "segmentations" / f"{number}_{person}.png", drawn)
    return folder


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)


def recipe_in(folder: Path, limit: int = 60, low: int = 100) -> ClassicalRecipe:
    path = folder / f"recipe-{limit}-{low}.yaml"
    path.write_text(RECIPE.format(limit=limit, low=low))
    return load_recipe(path)


@pytest.fixture
def recipe(tmp_path: Path) -> ClassicalRecipe:
    return recipe_in(tmp_path)


def wish(recipe: ClassicalRecipe, tmp_path: Path, data: Path | None, **options: object) -> Wish:
    given = {"systems": METHODS, "data_sets": ("discs",), "track": False, **options}
    return Wish(recipe, tmp_path / "classical", tmp_path / "work", data, **given)  # type: ignore[arg-type]


def facts(dice: float, **more: object) -> dict:
    return {
        "state": "done", "images": 3, "dice": dice, "iou": dice / 2, "oracle_dice": dice, "worst_dice": 0.1,
        "rule": "minority", "prompted": False, "arguments": {}, "cpu_seconds": 0.1, "voxels": 3600,
        "peak_ram_bytes": 10**8, **more,
    }  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Entries without a process: the list says which methods were measured."""
    called: list[str] = []

    def instead(wish: Wish, job: run.Job, children: object) -> dict:
        called.append(job.system)
        if job.system == "edge-kirsch":
            return {"state": "failed", "error": "RuntimeError: no | such <edge>"}
        return facts(0.3 if job.system in fit.BASELINES else 0.8)

    monkeypatch.setattr(run, "measure_apart", instead)
    return called


# --- rules and prompts --------------------------------------------------------------------------------------------


def test_rules_make_an_object_of_labels_without_names() -> None:
    labels = np.array([[0, 0, 0, 1], [0, 0, 0, 2]])
    grey = np.array([[5, 5, 5, 1], [5, 5, 5, 9.0]])
    assert object_in(labels, grey, "minority").tolist() == [[False] * 3 + [True]] * 2
    assert object_in(labels, grey, "darkest").sum() == 1
    assert object_in(labels, grey, "own").sum() == 2
    assert not object_in(np.zeros((2, 4), int), grey, "darkest").any(), "one label is no object"


def test_what_touches_two_sides_is_outside_and_what_touches_one_is_cut_off() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0, :3] = mask[:4, 0] = True
    mask[4:6, 6:] = True
    mask[3, 3] = True
    kept = inside(mask)
    assert kept[4, 7]
    assert kept[3, 3]
    assert not kept[0, 0]
    pieces = parted(mask.astype(np.uint8))
    assert (pieces[3, 3], pieces[0, 0], pieces[7, 0]) == (3, 2, 0)


def test_the_best_union_is_the_best_of_all_unions() -> None:
    rng = np.random.default_rng(1)
    labels, truth = rng.integers(0, 4, (9, 9)), rng.random((9, 9)) < 0.3

    def dice_of(mask: np.ndarray) -> float:
        return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())

    unions = [np.isin(labels, [v for v in range(4) if bits >> v & 1]) for bits in range(1, 16)]
    assert dice_of(best_union(labels, truth)) == pytest.approx(max(map(dice_of, unions)))


def test_dots_lie_where_they_should_and_every_large_part_has_one() -> None:
    truth = np.zeros((40, 60), bool)
    truth[5:15, 5:15] = truth[25:35, 40:52] = True
    seeds = dots(truth, (1.0, 1.0))
    assert seeds is not None
    assert set(np.unique(seeds)) == {0, 1, 255}
    assert not (seeds[~truth] == 1).any()
    assert not (seeds[truth] == 255).any()
    assert (seeds[:20] == 1).any()
    assert (seeds[20:] == 1).any()
    assert dots(np.ones((4, 4), bool), (1.0, 1.0)) is None
    assert dots(np.zeros((4, 4), bool), (1.0, 1.0)) is None


def test_a_volumes_box_is_given_in_mm_and_widened() -> None:
    truth = np.zeros((50, 40, 30), bool)
    truth[10:20, 10:20, 10:20] = True
    assert box_around(truth) == (slice(8, 22), slice(9, 21), slice(9, 21))
    sample = Sample("a", np.zeros((1, 50, 40, 30)), (2.0, 1.0, 3.0), truth=truth)
    prompt = prompt_for(find("level-set"), sample)
    assert prompt is not None
    assert prompt.boxes[0].tolist() == [[16, 9, 27], [44, 21, 63]]
    assert prompt_for(find("threshold-otsu"), sample) is None


def test_which_methods_fit_which_set() -> None:
    sets = load_recipe().data_sets
    assert fit.why_not(find("threshold-otsu"), sets["bsds"]) == ""
    assert fit.why_not(find("graph-cuts"), sets["bsds"]) == "needs a prompt"
    assert fit.why_not(find("threshold-otsu"), sets["strokes"]) == "takes no seeds and no box"
    assert fit.why_not(find("grabcut"), sets["nuclei"]) == "starts from one box around one object"
    assert fit.why_not(find("lung-threshold"), sets["hippocampus"]) == "needs hu, geometry"
    assert fit.why_not(find("lung-threshold"), sets["lungs"]) == ""
    assert fit.why_not(find("snake"), sets["lungs"]) == "has no 3D form"
    assert [c.name for c in fit.methods() if not fit.why_not(c, sets["video"])] == ["saliency-geodesic-video"]


def test_every_classical_method_has_a_quality_and_a_speed() -> None:
    sets = load_recipe().data_sets
    for card in fit.methods():
        measured = {images.measures for images in sets.values() if not fit.why_not(card, images)}
        assert "speed" in measured, card.name
        assert measured & {"object", "regions"}, card.name


def test_a_pattern_sets_arguments_and_a_sweep_tries_its_values() -> None:
    images = load_recipe().data_sets["bsds"]
    assert [s["sigma_mm"] for s in images.settings_of("edge-canny")] == [1.0, 2.0, 4.0]
    assert images.settings_of("threshold-fixed") == [{"low": 128}]
    assert images.settings_of("threshold-otsu") == [{}]


def test_arguments_of_the_shipped_recipe_exist() -> None:
    from medseg.zoo.build import resolved_arguments

    for images in load_recipe().data_sets.values():
        for card in fit.methods():
            if not fit.why_not(card, images):
                for arguments in images.settings_of(card.name):
                    resolved_arguments(card, "paper", arguments, images.dims)


# --- figures ------------------------------------------------------------------------------------------------------


def test_otsu_finds_the_discs_and_everything_does_not(recipe: ClassicalRecipe, data: Path) -> None:
    images = recipe.data_set("discs")
    found = measure.measure("threshold-otsu", images, data / "discs")
    assert found["dice"] > 0.97
    assert found["oracle_dice"] >= found["dice"]
    assert (found["images"], found["prompted"], found["voxels"]) == (3, False, 3600)
    assert measure.measure(fit.EVERYTHING, images, data / "discs")["dice"] < 0.3
    walked = measure.measure("random-walker", images, data / "discs")
    assert walked["prompted"]
    assert walked["dice"] > 0.9


def test_regions_are_compared_with_all_people(recipe: ClassicalRecipe, data: Path) -> None:
    images = recipe.data_set("people")
    otsu = measure.measure("threshold-otsu", images, data / "people")
    assert otsu["boundary_f_ods"] == otsu["boundary_f_ois"] > 0.95
    assert otsu["covering_ods"] == otsu["covering_ois"] > 0.9
    assert len(measure.measure("threshold-multi-otsu", images, data / "people")["settings"]) == 2
    people = measure.measure(fit.PEOPLE, images, data / "people")
    one = measure.measure(fit.ONE, images, data / "people")
    assert people["covering_ods"] > 0.85 > one["covering_ods"]
    assert (one["boundary_f_ods"], measure.measure(fit.GRID, images, data / "people")["images"]) == (0, 2)


def test_edges_count_as_boundaries_and_what_they_enclose_as_regions(
    recipe: ClassicalRecipe, data: Path
) -> None:
    found = measure.measure("edge-sobel", recipe.data_set("people"), data / "people")
    assert found["boundary_f_ods"] > 0.9
    assert found["covering_ods"] > 0.8


def test_the_best_setting_for_a_set_is_one_and_for_images_many() -> None:
    a, b = BoundaryCounts(8, 10, 8, 10), BoundaryCounts(2, 10, 2, 10)
    best = measure.best_of([[0.9, 0.1], [0.2, 0.8]], [[a, b], [b, a]])
    assert best["covering_ods"] == pytest.approx(0.55)
    assert best["covering_ois"] == pytest.approx(0.85)
    assert (best["boundary_f_ods"], best["boundary_f_ois"]) == (0.5, 0.8)


# --- images -------------------------------------------------------------------------------------------------------


def test_volumes_are_upright_and_shrunk_with_their_label(tmp_path: Path) -> None:
    import nibabel as nib

    image, truth = np.zeros((8, 8, 6), np.int16), np.zeros((8, 8, 6), np.uint8)
    image[:2], truth[:2] = 3000, 5
    for name, array in (("images", image), ("labels", truth)):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(array, np.diag([-2.0, 2.0, 3.0, 1.0])), tmp_path / name / "a.nii.gz")
    images = (
        load_recipe()
        .data_sets["lungs"]
        .model_copy(update={"names": ["a"], "label_values": {"a": [5]}, "shrink": [2, 2, 1]})
    )
    (sample,) = samples(images, tmp_path)
    assert sample.spacing_mm == (4.0, 4.0, 3.0)
    assert sample.truth is not None
    assert np.flatnonzero(sample.truth.any(axis=(1, 2))).tolist() == [3], "the first voxel lies on the right"
    assert sample.image.max() == 1000, "cut to the recipe's range"
    with pytest.raises(UserError, match="no image 'b'"):
        list(samples(images.model_copy(update={"names": ["b"]}), tmp_path))


def test_a_missing_label_is_named(tmp_path: Path, recipe: ClassicalRecipe) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((8, 8)))
    with pytest.raises(UserError, match="is missing"):
        list(samples(recipe.data_set("discs"), tmp_path))
    save(tmp_path / "test" / "images" / "a.png", np.zeros((8, 8)))
    with pytest.raises(UserError, match="no segmentation"):
        list(samples(recipe.data_set("people"), tmp_path))
    (tmp_path / "none" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no images"):
        list(samples(recipe.data_set("discs"), tmp_path / "none"))


def test_blocks_are_averaged_and_the_drawn_chest_has_two_lungs() -> None:
    from scipy.ndimage import label

    assert block_means(np.arange(12.0).reshape(3, 4), (2, 2)).tolist() == [[2.5, 4.5]]
    image, lungs = drawn_chest(48)
    assert label(lungs)[1] == 2
    assert image[lungs].mean() < -600


# --- what runs again, and the page --------------------------------------------------------------------------------


def test_a_second_call_measures_nothing_and_a_changed_setting_only_its_method(
    fake: list[str], recipe: ClassicalRecipe, tmp_path: Path, data: Path
) -> None:
    systems = (*METHODS, "threshold-fixed")
    run.run(wish(recipe, tmp_path, data, systems=systems))
    assert sorted(fake) == sorted([fit.EVERYTHING, *systems])
    assert run.run(wish(recipe, tmp_path, data, systems=systems)).kept == 4
    assert len(fake) == 4
    fake.clear()
    run.run(wish(recipe_in(tmp_path, low=120), tmp_path, data, systems=systems))
    assert fake == ["threshold-fixed"]


def test_changed_code_and_a_damaged_file_run_again(
    fake: list[str], recipe: ClassicalRecipe, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.run(wish(recipe, tmp_path, data))
    (tmp_path / "classical" / "discs" / "edge-sobel.json").write_text('{"state": "do')
    fake.clear()
    run.run(wish(recipe, tmp_path, data))
    assert fake == ["edge-sobel"]
    monkeypatch.setattr(fit, "digest_of", lambda card: f"changed {card.name}")
    fake.clear()
    run.run(wish(recipe, tmp_path, data))
    assert sorted(fake) == sorted(METHODS)


def test_a_failing_method_is_an_entry_and_is_tried_again_on_request(
    fake: list[str], recipe: ClassicalRecipe, tmp_path: Path, data: Path
) -> None:
    options = {"systems": ("edge-kirsch", "threshold-otsu")}
    done = run.run(wish(recipe, tmp_path, data, **options))
    assert [entry["system"] for entry in done.failed] == ["edge-kirsch"]
    assert "- `edge-kirsch`: RuntimeError: no / such (edge)" in table.page(recipe, tmp_path / "classical")
    fake.clear()
    run.run(wish(recipe, tmp_path, data, **options))
    assert fake == []
    run.run(wish(recipe, tmp_path, data, **options, retry=True))
    assert fake == ["edge-kirsch"]


def test_a_call_is_a_run_in_mlflow_and_every_entry_a_run_below_it(
    fake: list[str], recipe: ClassicalRecipe, tmp_path: Path, data: Path
) -> None:
    import mlflow

    done = run.run(
        wish(recipe, tmp_path, data, systems=("edge-kirsch", "threshold-otsu"), track=True),
    )
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "bench-classical"]
    runs = client.search_runs([experiment.experiment_id])
    (root,) = [r for r in runs if r.info.run_id == done.mlflow_run_id]
    assert (root.info.status, root.data.params["cpu_seconds"]) == ("FINISHED", "60")
    below = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == done.mlflow_run_id}
    assert set(below) == {"edge-kirsch discs", "threshold-otsu discs", f"{fit.EVERYTHING} discs"}
    assert below["threshold-otsu discs"].data.metrics["dice"] == 0.8
    assert below["edge-kirsch discs"].info.status == "FAILED"
    assert "no | such" in below["edge-kirsch discs"].data.params["error"]
    assert done.as_json()["mlflow_run_id"] == done.mlflow_run_id
    again = run.run(wish(recipe, tmp_path, data, systems=("threshold-otsu",), track=True))
    assert again.mlflow_run_id is None, "nothing was measured, so there is nothing to remember"


def test_unknown_names_and_absent_data_are_said(recipe: ClassicalRecipe, tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="did you mean threshold-otsu"):
        run.run(wish(recipe, tmp_path, data, systems=("threshold-otsuu",)))
    with pytest.raises(UserError, match="did you mean discs"):
        run.run(wish(recipe, tmp_path, data, data_sets=("disc",)))
    with pytest.raises(UserError, match="there is no folder 'discs'"):
        run.run(wish(recipe, tmp_path, tmp_path))


def test_an_entry_in_its_own_process_and_one_that_takes_too_long(
    recipe: ClassicalRecipe, tmp_path: Path, data: Path
) -> None:
    done = run.run(wish(recipe, tmp_path, data, systems=("threshold-otsu",)))
    assert done.failed == []
    entry = read_json(tmp_path / "classical" / "discs" / "threshold-otsu.json")
    assert entry["dice"] > 0.97
    assert "scikit-image" in entry["machine"]
    hurried = wish(recipe_in(tmp_path, limit=1), tmp_path, data)
    job = run.Job("discs", "no-such-method", "key", data / "discs")
    found = run.measure_apart(hurried, job, Children())
    assert found["state"] == "failed"
    assert "no-such-method" in found["error"] or "1 s of processor time" in found["error"]


def test_the_page_ranks_methods_names_rules_and_keeps_the_remark(
    fake: list[str], recipe: ClassicalRecipe, tmp_path: Path, data: Path
) -> None:
    run.run(wish(recipe, tmp_path, data))
    sobel = tmp_path / "classical" / "discs" / "edge-sobel.json"
    write_json(sobel, {**read_json(sobel), "dice": 0.9, "prompted": True})
    easy = recipe.data_set("discs").model_copy(update={"remark": "Discs are easy."})
    told = recipe.model_copy(update={"data_sets": {**recipe.data_sets, "discs": easy}})
    text = table.page(told, tmp_path / "classical")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[2].strip() for row in rows[1:4]] == [
        "`edge-sobel` *",
        "`threshold-otsu`",
        f"`{fit.EVERYTHING}`",
    ]
    assert "The object is all labels but the one that covers the most of the image." in text
    assert "Discs are easy." in text
    assert "Not run yet" in text
    assert "(needs a prompt)" not in text.split("## people")[0]
    assert "(needs a prompt)" in text.split("## people")[1]


def test_the_page_of_regions_and_of_speed(tmp_path: Path) -> None:
    recipe = load_recipe()
    machine = {
        "cpu": "A CPU", "cores": 2, "ram_gb": 8, "system": "Linux", "python": "3.11", "medseg": "0", **run.versions()
    }  # fmt: skip
    regions = {
        "covering_ods": 0.4, "covering_ois": 0.5, "boundary_f_ods": 0.6, "boundary_f_ois": 0.61, "precision": 0.7,
        "recall": 0.5, "settings": [{"levels": 2}, {"levels": 3}], "images": 6, "cpu_seconds": 0.2,
    }  # fmt: skip
    timed = {
        "images": 1, "cpu_seconds": 0.03, "added_ram_bytes": 10**7, "library": "skimage.x", "library_cpu_seconds": 0.02,
        "same_work_cpu_seconds": 0.021, "ratio": 1.04, "own": False,
    }  # fmt: skip
    for data_set, found in (("bsds", regions), ("speed-2d", timed)):
        entry = {
            "data_set": data_set,
            "system": "threshold-multi-otsu",
            "state": "done",
            "key": "k",
            "machine": machine,
        }
        write_json(tmp_path / "out" / data_set / "threshold-multi-otsu.json", {**entry, **found})
    text = table.page(recipe, tmp_path / "out")
    assert "| 1 | `threshold-multi-otsu` | levels 2, 3 | 0.400 | 0.500 | 0.600 |" in text
    assert "| `threshold-multi-otsu` | 0.030 | 0.01 | `skimage.x` | 20.00 | 21.00 | 1.04 |" in text
    assert "Arbelaez et al. 2011" in text
    assert "Measured on A CPU, one thread" in text


def test_the_verb_writes_the_page_without_measuring(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    from medseg.cli import _main

    assert _main(["bench", "classical", "--table", "--out", str(tmp_path / "classical"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["page"].endswith("classical.md")
    assert "Not run yet" in (tmp_path / "classical.md").read_text()
