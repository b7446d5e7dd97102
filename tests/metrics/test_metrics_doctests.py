"""The hand-worked values in the docstrings of the rooms of losses and metrics."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "losses.supervision",
    "metrics.boundaries",
    "metrics.cost",
    "metrics.matching",
    "metrics.objects",
    "metrics.overlap",
    "metrics.pair",
    "metrics.regions",
    "metrics.statistics",
    "metrics.surface",
    "metrics.table",
    "metrics.volumes",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    outcome = doctest.testmod(import_module(f"medseg.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
