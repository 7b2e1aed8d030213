# Two commands: `make demo` sets up and prints an estimate and a figure; `make test` sets up and checks everything.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test accuracy published inference figures

demo: .venv/base
	$(BIN)/estimator estimate llama-3.2-1b --method lora --r 16 --batch 1 --seq 2048
	$(BIN)/estimator compare llama-3.2-1b --methods full,lora,ia3 --devices rtx-4090 --output compare.png

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

accuracy: .venv/test
	$(BIN)/python docs/make_accuracy.py

published: .venv/test
	$(BIN)/python docs/make_accuracy.py --published

inference: .venv/test
	$(BIN)/python docs/make_accuracy.py --inference

figures: .venv/base
	$(BIN)/python docs/make_figures.py

.venv/base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m compileall -q estimator
	touch $@

.venv/test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m compileall -q estimator
	touch $@
