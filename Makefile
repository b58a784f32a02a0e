# Each target makes the virtual environment .venv and installs what it needs: no set-up before.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/demo

.PHONY: demo test lint format bench speed killed extras clean

demo: .venv/.study ## the main job: ratios found on a small model, proven on a larger one, one page
	$(BIN)/rlrs run configs/demo.yaml --out $(OUT)

test: .venv/.dev ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv/.dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.dev ## ratios of speed, paired in one run
	$(BIN)/python -m benchmarks.scheduler_step
	$(BIN)/python -m benchmarks.partition_70b

speed: .venv/.dev ## tokens per second against other trainers, operations per second against the processor's peak
	$(BIN)/python -m benchmarks.speed

killed: .venv/.dev ## studies and runs killed at random moments against undisturbed ones
	$(BIN)/python -m pytest -m killed

extras: .venv/.dev ## every extra alone in an environment of its own, with what it is for run there
	$(BIN)/python -m tools.extras_alone

clean:
	rm -rf .venv runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.study: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[study]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.study
