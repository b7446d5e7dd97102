# The five commands people use.
.PHONY: install run test check docs

install:  ## into the active environment, with all tools
	pip install -e ".[dev]"

run:      ## the main job on a synthetic cohort
	medseg run pipelines/ct_lung.yaml

test:     ## all tests
	pytest

check:    ## style and types
	ruff check . && ruff format --check . && mypy

docs:     ## pages that are printed from code, and what `medseg show` counts
	python docs/render.py
	python benchmarks/zoo_figures.py
