# Each target makes the virtual environment .venv and installs what it needs: no set-up before.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: help demo test long lint format docs bench speed gpu evidence killed extras clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

demo: .venv/.study ## the main job: ratios found on a small model, proven on a larger one, one page
	$(BIN)/rlrs run configs/demo.yaml --out $(OUT)

test: .venv/.dev ## the tests, five minutes on two cores
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

long: .venv/.dev ## tests that train whole studies, ten minutes
	$(BIN)/python -m pytest -m 'long and not killed' -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/.dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache . # a cache would keep the import order of before a file was added
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.dev ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --no-cache --fix .

docs: .venv/.dev ## the site in site/, every link and reference checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: .venv/.dev ## ratios of speed, paired in one run
	$(BIN)/python -m benchmarks.scheduler_step
	$(BIN)/python -m benchmarks.partition_70b

speed: .venv/.dev ## tokens per second against other trainers, operations per second against the processor's peak
	$(BIN)/python -m benchmarks.speed

gpu: .venv/.dev ## the trainer on a GPU within nine minutes: right, fast, true at size
	$(BIN)/python -m benchmarks.gpu --minutes 9

evidence: .venv/.dev ## every claim measured, hours; resumable, and docs/evidence.md again
	$(BIN)/python -m experiments.evidence run
	$(BIN)/python -m experiments.evidence list --write
	$(BIN)/python -m tools.evidence_tables

killed: .venv/.dev ## studies and runs killed at random moments against undisturbed ones
	$(BIN)/python -m pytest -m killed

extras: .venv/.dev ## every extra alone in an environment of its own, with what it is for run there
	$(BIN)/python -m tools.extras_alone

clean: ## remove the environment, runs and the site
	rm -rf .venv runs site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.study: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[study]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.study
