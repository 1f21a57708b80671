# The same commands for developers, CI and hooks. README.md lists plain commands for systems without make.
PYTHON ?= python3
VENV := .venv
# Keras's backend: tensorflow, jax or torch; docs/how-to/gpu.md. Without a choice, the one installed last.
BACKEND ?= $(or $(KERAS_BACKEND),$(shell cat $(VENV)/backend 2>/dev/null),tensorflow)
REQUIREMENTS := $(if $(filter tensorflow,$(BACKEND)),requirements.txt,requirements-$(BACKEND).txt)
PIPELINE := $(VENV)/pipeline-$(BACKEND).stamp
INSTALL := python -m pip install --quiet --disable-pip-version-check
# Of `make docs`, which needs none of the other packages.
DOCS_VENV := build/docs-venv
BASE ?= origin/main
# Of the tests at a time, each with up to 3 GB of memory; a file stays in one process.
PROCESSES ?= 2
PYTEST = python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
EVALUATION := artifacts/evaluation
PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links
SHELL_SCRIPTS = $(shell grep -l 'env bash' scripts/*)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export KERAS_BACKEND := $(BACKEND)

.DEFAULT_GOAL := help
.PHONY: help setup pipeline serve test test-fast test-full lint small compare bundle audit bench pins notebooks docs docs-config clean

help:            ## List the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(PIPELINE): $(REQUIREMENTS) setup.py
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r $(REQUIREMENTS)
	$(if $(filter torch,$(BACKEND)),$(INSTALL) -r requirements-torch.in $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)))
	$(INSTALL) --no-deps --no-build-isolation -e .
	@echo $(BACKEND) > $(VENV)/backend
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(PIPELINE)
	$(INSTALL) -r requirements-dev.txt
	@touch $@

$(VENV)/notebooks.stamp: requirements-notebooks.txt $(PIPELINE)
	$(INSTALL) -r requirements-notebooks.txt
	@touch $@

setup: $(PIPELINE)    ## Create .venv and install the pipeline's packages; BACKEND=jax or torch: on another backend

pipeline: $(PIPELINE) ## Run all stages and print the scores
	dvc repro
	@python main.py scores

serve: $(PIPELINE)    ## The page, at http://localhost:8080
	python app.py

test: $(VENV)/dev.stamp          ## The fast and the slow tests, the fast ones first
	$(PYTEST) -m "not full"

test-fast: $(VENV)/dev.stamp     ## The fast tests alone
	$(PYTEST) -m "not slow and not full"

test-full: $(VENV)/dev.stamp     ## All tests, with those that take many minutes
	$(PYTEST)

lint: $(VENV)/dev.stamp          ## Style, types, workflow, Dockerfile, scripts, CloudFormation, Kubernetes
	ruff check .
	ruff format --check .
	mypy
	actionlint
	hadolint Dockerfile
	shellcheck -x scripts/lib.sh $(SHELL_SCRIPTS)
	cfn-lint infra/aws.yaml
	kubernetes-validate --quiet --strict -k 1.33 $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/*.yaml))

small: $(PIPELINE)    ## Run all stages on small synthetic images of your classes, in build/small
	scripts/small-pipeline build/small

compare:                         ## After `make small`: compare its scores with those of BASE (origin/main)
	scripts/small-pipeline build/base $(BASE)
	python main.py compare build/base/$(EVALUATION) build/small/$(EVALUATION) --names main here --markdown > build/comparison.md
	@cat build/comparison.md

bundle: $(PIPELINE)   ## The bundle for the image: from the DVC remote if there is one, else trained
	scripts/fetch-bundle

audit: $(VENV)/dev.stamp         ## List known vulnerabilities of the pinned packages
	pip-audit --disable-pip --require-hashes -r requirements.txt

bench: $(VENV)/dev.stamp         ## Measure the README's numbers
	python -m benchmarks

pins: $(VENV)/dev.stamp          ## Update requirements*.txt from requirements*.in
	python -m pip install --quiet uv
	$(PIN) --upgrade requirements-dev.in -o requirements-dev.txt
	$(PIN) requirements.in -c requirements-dev.txt -o requirements.txt
	$(PIN) requirements-jax.in -c requirements-dev.txt -o requirements-jax.txt
	$(PIN) requirements-gpu.in -c requirements-jax.txt -o requirements-gpu.txt
	$(PIN) requirements-base.in -c requirements-dev.txt -o requirements-torch.txt  # without PyTorch
	$(PIN) requirements-sources.in -c requirements-dev.txt -o requirements-sources.txt
	$(PIN) requirements-scale.in -c requirements-dev.txt -o requirements-scale.txt
	$(PIN) requirements-serve.in -c requirements-dev.txt -o requirements-serve.txt
	$(PIN) --upgrade requirements-notebooks.in -c requirements-dev.txt -o requirements-notebooks.txt
	$(PIN) --upgrade requirements-docs.in -c requirements-dev.txt -o requirements-docs.txt

notebooks: $(VENV)/notebooks.stamp ## JupyterLab with the notebooks of research/
	jupyter lab research/01_data_ingestion.ipynb

$(DOCS_VENV)/stamp: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/$(INSTALL) -r requirements-docs.txt
	@touch $@

docs: $(DOCS_VENV)/stamp         ## The documentation as a website, in build/site
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet

docs-config: $(PIPELINE) ## Update the pages of docs/ that are generated from the code
	python -m cnnClassifier.config.reference > docs/configuration.md
	python scripts/import_graph.py > docs/architecture-imports.md

clean:           ## Remove the outputs of the pipeline; .venv, data/ and the feature cache stay
	rm -rf artifacts logs
