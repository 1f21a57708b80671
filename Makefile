# The one vocabulary: by hand, in CI, in hooks. Plain commands for systems without make stand in README.md.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup pipeline serve test test-fast lint bench pins clean

help:            ## Show what there is to type
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(VENV)/pipeline.stamp: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/pipeline.stamp
	python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup: $(VENV)/pipeline.stamp    ## Make .venv and install what the pipeline needs

pipeline: $(VENV)/pipeline.stamp ## Data to trained, evaluated, tracked model; prints the scores
	dvc repro
	@python main.py scores

serve: $(VENV)/pipeline.stamp    ## The page, at http://localhost:8080
	python app.py

test: $(VENV)/dev.stamp          ## All tests, the fast ones first
	python -m pytest

test-fast: $(VENV)/dev.stamp     ## The tests that take seconds
	python -m pytest -m "not slow"

lint: $(VENV)/dev.stamp          ## Style and types
	ruff check .
	ruff format --check .
	mypy

bench: $(VENV)/dev.stamp         ## Measure what the README's figures come from
	python -m benchmarks

pins: $(VENV)/dev.stamp          ## Pin requirements*.txt anew from requirements*.in
	python -m pip install --quiet uv
	uv pip compile --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --quiet --upgrade requirements-dev.in -o requirements-dev.txt
	uv pip compile --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --quiet requirements.in -c requirements-dev.txt -o requirements.txt
	uv pip compile --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links --quiet requirements-serve.in -c requirements-dev.txt -o requirements-serve.txt

clean:           ## Remove what the pipeline made; .venv, data/ and the feature cache stay
	rm -rf artifacts logs
