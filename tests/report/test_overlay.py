"""Overlays show the patient as a radiologist does: right on the left, front up, head up."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core import ClassInfo, Geometry, Segmentation
from medseg.report.curves import draw_curves, read_history
from medseg.report.overlay import draw, planes

RIGHT = (ClassInfo("right front top", 1, (255, 0, 0)),)


def marked() -> tuple[np.ndarray, Geometry]:
    """A volume whose right, front, top octant is marked (RAS axes, spacing 1 x 2 x 4 mm)."""
    labels = np.zeros((16, 12, 8), dtype=np.uint8)
    labels[9:, 7:, 5:] = 1
    return labels, Geometry.from_spacing(labels.shape, (1, 2, 4))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_each_plane_puts_the_marked_corner_where_a_radiologist_expects_it(codes: str) -> None:
    import nibabel as nib

    labels, grid = marked()
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    stored = nib.orientations.apply_orientation(labels, turn)
    affine = grid.affine @ nib.orientations.inv_ornt_aff(turn, labels.shape)
    geometry = Geometry(stored.shape, affine)
    found = planes(stored[None], geometry, Segmentation(stored, geometry, RIGHT), None)
    by_title = {p.title: p for p in found}

    def corner(plane) -> tuple[str, str]:
        rows, columns = np.nonzero(plane.prediction[0])
        height, width = plane.prediction[0].shape
        return ("top" if rows.mean() < height / 2 else "bottom"), (
            "left" if columns.mean() < width / 2 else "right"
        )

    assert corner(by_title["axial"]) == ("top", "left")  # front up, the patient's right on the left
    assert corner(by_title["coronal"]) == ("top", "left")
    assert corner(by_title["sagittal"]) == ("top", "left")  # head up, front on the left
    assert by_title["coronal"].aspect == pytest.approx(4.0)
    assert by_title["axial"].letters[:2] == ("R", "L")


def test_a_picture_is_a_png_in_two_and_three_dimensions() -> None:
    labels, grid = marked()
    volume = draw(
        planes(labels[None].astype(float), grid, Segmentation(labels, grid, RIGHT), None), RIGHT, (0, 1)
    )
    pixels = Geometry.pixels((20, 30))
    photo = np.random.default_rng(0).integers(0, 255, (3, 20, 30), dtype=np.uint8)
    mask = Segmentation((photo[0] > 100).astype(np.uint8), pixels, RIGHT)
    picture = draw(planes(photo, pixels, mask, mask), RIGHT, None)
    assert volume[:4] == picture[:4] == b"\x89PNG"


def test_an_empty_mask_and_a_constant_image_make_a_picture() -> None:
    _, grid = marked()
    empty = Segmentation(np.zeros(grid.shape, np.uint8), grid, RIGHT)
    assert draw(planes(np.zeros((1, *grid.shape)), grid, empty, None), RIGHT, None)[:4] == b"\x89PNG"


def test_history_leaves_out_a_line_that_was_cut_off(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1, "seconds": 60, "loss": 0.5, "val_dice": 0.4}\n{"step": 2, "los')
    lines = read_history(path)
    assert [line["step"] for line in lines] == [1]
    assert "<svg" in draw_curves({"u-net": lines})
    assert draw_curves({"u-net": []}) == ""
