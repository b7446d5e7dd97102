"""The gallery: small pictures, a page with parameters, a person's own image, failures by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.bench.classical.fit import methods
from medseg.core.errors import UserError
from medseg.gallery.classical import draw
from medseg.gallery.inputs import INPUTS, SHOWN, middle_slice, own_input
from medseg.gallery.notes import NOTES
from medseg.gallery.page import first_sentence, parameters
from medseg.gallery.paint import LARGEST_BYTES, as_picture, turned, with_labels
from medseg.zoo.build import arguments_of, find

ROOT = Path(__file__).parents[2]


def test_pictures_are_small_and_the_page_shows_them(tmp_path: Path) -> None:
    made = draw(tmp_path / "pictures", systems=("otsu", "graph-cuts", "snake", "lung-threshold"))
    assert made.failed == {}
    assert list(made.pictures) == ["threshold-otsu", "graph-cuts", "snake", "lung-threshold"]
    for path in made.pictures.values():
        assert 1000 < path.stat().st_size <= LARGEST_BYTES
        assert Image.open(path).width < 500
    text = made.page.read_text()
    assert made.page == tmp_path / "pictures.md"
    assert "(pictures/threshold-otsu.webp)" in text
    assert "(pictures/edge-canny.webp)" not in text, "no link to a picture that was not drawn"
    assert "| `bins` | `256` |" in text


def test_a_persons_own_image_is_drawn_and_methods_without_a_form_for_it_are_named(tmp_path: Path) -> None:
    import nibabel as nib

    ramp = np.zeros((24, 20, 16), np.int16)
    ramp[8:16, 6:14, 4:12] = 500
    nib.save(nib.Nifti1Image(ramp, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "a.nii.gz")
    systems = ("threshold-otsu", "snake")
    made = draw(tmp_path / "own", tmp_path / "a.nii.gz", systems)
    assert set(made.pictures) == set(systems), "a 2D method gets the middle slice"
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "flat.png")
    made = draw(tmp_path / "flat", tmp_path / "flat.png", ("lung-threshold", "threshold-otsu"))
    assert list(made.failed) == ["lung-threshold"]
    assert "axes" in made.failed["lung-threshold"] or "3D" in made.failed["lung-threshold"]


def test_own_volumes_are_thinned_and_turned(tmp_path: Path) -> None:
    import nibabel as nib

    nib.save(
        nib.Nifti1Image(np.zeros((330, 8, 6), np.int16), np.diag([-1.0, 1, 3, 1])), tmp_path / "a.nii.gz"
    )
    sample = own_input(tmp_path / "a.nii.gz")
    assert sample.image.shape == (1, 110, 8, 6)
    assert sample.spacing_mm == (3.0, 1.0, 3.0)
    assert middle_slice(sample).image.shape == (1, 110, 8)


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean"):
        draw(tmp_path, systems=("threshold-otsuu",))


def test_every_method_has_notes_an_input_and_explained_parameters() -> None:
    names = {card.name for card in methods()}
    assert set(NOTES) == names
    assert set(SHOWN) <= names
    assert {shown.on for shown in SHOWN.values()} <= set(INPUTS)
    unexplained = [
        f"{card.name}.{name}"
        for card in methods()
        for (name, _), line in zip(arguments_of(card), parameters(card)[2:])
        if line.endswith("|  |")
    ]
    assert len(unexplained) < 30, unexplained


def test_front_is_above_and_right_is_left_in_slices_of_volumes() -> None:
    section = np.zeros((3, 2))
    section[2, 1] = 1  # the patient's left, in front
    assert np.argwhere(turned(section, True)).tolist() == [[0, 0]]


def test_a_result_is_tinted_and_the_rest_is_not() -> None:
    base = as_picture(np.full((1, 12, 12), 100, np.uint8), False)
    labels = np.zeros((12, 12), np.uint8)
    labels[4:9, 4:9] = 1
    out = with_labels(base, labels)
    assert (out[0, 0] == 100).all()
    assert out[6, 6, 1] > 130 > out[6, 6, 0] + 20


def test_first_sentences_are_whole() -> None:
    assert first_sentence("It moves by T. 2 it is. Then more.") == "It moves by T. 2 it is."
    assert find("threshold-otsu").name in NOTES


def test_the_guide_is_as_the_command_writes_it(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    from medseg.cli import _main

    guide = ROOT / "docs" / "guides" / "classical.md"
    assert "medseg gallery classical --out docs/guides/classical" in guide.read_text()
    names = {card.name for card in methods()}
    pictures = list((guide.parent / "classical").glob("[!.]*.webp"))
    assert {p.stem for p in pictures} <= names
    assert max(p.stat().st_size for p in pictures) <= LARGEST_BYTES
    assert sum(p.stat().st_size for p in pictures) < 1_200_000
    code = _main(
        ["gallery", "classical", "--out", str(tmp_path / "classical"), "--systems", "threshold-li", "--json"]
    )
    assert code == 0
    assert list(json.loads(capfd.readouterr().out)["pictures"]) == ["threshold-li"]
