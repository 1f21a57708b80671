# The one vocabulary: by hand, in CI, in hooks. Plain commands for systems without make stand in README.md.
PYTHON ?= python3
VENV := .venv
BASE ?= origin/main
SCORES := artifacts/evaluation/scores.json
PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links
SHELL_SCRIPTS = $(shell grep -l 'env bash' scripts/*)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup pipeline serve test test-fast lint small compare bundle audit bench pins clean

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

lint: $(VENV)/dev.stamp          ## Style, types, workflow, Dockerfile, scripts, CloudFormation
	ruff check .
	ruff format --check .
	mypy
	actionlint
	hadolint Dockerfile
	shellcheck -x scripts/lib.sh $(SHELL_SCRIPTS)
	cfn-lint infra/aws.yaml

small: $(VENV)/pipeline.stamp    ## All stages on a small phantom, in build/small: does it work?
	scripts/small-pipeline build/small

compare:                         ## After `make small`: its scores beside those of BASE's code (origin/main)
	scripts/small-pipeline build/base $(BASE)
	scripts/compare-scores build/base/$(SCORES) build/small/$(SCORES) > build/comparison.md
	@cat build/comparison.md

bundle: $(VENV)/pipeline.stamp   ## A bundle for the image: from the DVC remote where there is one, else trained
	scripts/fetch-bundle

audit: $(VENV)/dev.stamp         ## Known vulnerabilities of the pinned packages
	pip-audit --disable-pip --require-hashes -r requirements.txt

bench: $(VENV)/dev.stamp         ## Measure what the README's figures come from
	python -m benchmarks

pins: $(VENV)/dev.stamp          ## Pin requirements*.txt anew from requirements*.in
	python -m pip install --quiet uv
	$(PIN) --upgrade requirements-dev.in -o requirements-dev.txt
	$(PIN) requirements.in -c requirements-dev.txt -o requirements.txt
	$(PIN) requirements-serve.in -c requirements-dev.txt -o requirements-serve.txt

clean:           ## Remove what the pipeline made; .venv, data/ and the feature cache stay
	rm -rf artifacts logs
