"""What sends a prediction to a person: emptiness, absent classes, volumes and sides that are out of the ordinary."""

import pytest

from medseg.score.review import Expected, review_reasons

EXPECTED = Expected(
    {"left lung": (1000.0, 3000.0), "right lung": (1200.0, 3500.0)}, frozenset({"left lung", "right lung"})
)


def side_car(**volumes_ml):
    volumes = {name.replace("_", " "): ml for name, ml in volumes_ml.items()}
    return {"volumes_ml": volumes, "voxels": {name: int(ml * 100) for name, ml in volumes.items()}}


def test_an_ordinary_prediction_is_not_flagged():
    assert review_reasons(side_car(left_lung=1900.0, right_lung=2300.0), EXPECTED) == []


@pytest.mark.parametrize(
    ("prediction", "reasons"),
    [
        (side_car(left_lung=0.0, right_lung=0.0), ["the prediction is empty"]),
        (side_car(left_lung=0.0, right_lung=2000.0), ["left lung was not found"]),
        (side_car(left_lung=2000.0, right_lung=9000.0), [
            "right lung has 9,000 ml; the training data had 1,200 ml to 3,500 ml",
            "left lung is 4.5 times smaller than right lung",
        ]),
        (side_car(left_lung=1000.0, right_lung=100.0), [
            "right lung has 100 ml; the training data had 1,200 ml to 3,500 ml",
            "right lung is 10.0 times smaller than left lung",
        ]),
    ],
)  # fmt: skip
def test_what_is_unusual_is_said_with_its_numbers(prediction, reasons):
    assert review_reasons(prediction, EXPECTED) == reasons


def test_photographs_are_judged_by_pixels():
    prediction = {
        "voxels": {"left lung": 10, "right lung": 1000},
        "volumes_ml": {"left lung": None, "right lung": None},
    }
    assert review_reasons(prediction) == ["left lung is 100.0 times smaller than right lung"]


def test_a_class_that_not_every_training_case_had_may_be_absent():
    prediction = side_car(left_lung=1500.0, right_lung=1500.0, nodule=0.0)
    assert review_reasons(prediction, EXPECTED) == []


def test_one_side_without_the_other_is_flagged_even_where_nothing_is_known_of_the_model():
    assert review_reasons(side_car(left_lung=0.0, right_lung=800.0)) == [
        "left lung was not found, right lung was"
    ]
