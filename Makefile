# Two commands: `make demo` sets up and prints an estimate and a figure; `make test` sets up and checks everything.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs pages programs accuracy witness published inference figures

demo: .venv/base
	$(BIN)/estimator estimate llama-3.2-1b --method lora --r 16 --batch 1 --seq 2048
	$(BIN)/estimator compare llama-3.2-1b --methods full,lora,ia3 --devices rtx-4090 --output compare.png

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

docs: .venv/docs # the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pages: .venv/test # what pages print and list, written anew: output of commands, options, files of each folder
	$(BIN)/python docs/make_keywords.py
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_walkthroughs.py
	$(BIN)/python docs/make_file_lists.py

programs: .venv/test # recorded programs, in model_specs/programs; takes most of an hour
	$(BIN)/python model_specs/make_programs.py

accuracy: .venv/test
	$(BIN)/python docs/make_accuracy.py

witness: .venv/test .venv-4.45/made .venv-4.48/made .venv-4.57/made .venv-trl-1.14/made .venv-trl-1.16/made # what takes too long for every run: all built-in models, every causal class against measured steps
	$(BIN)/pytest -n 2 -m witness
	RECORDED=all $(BIN)/pytest -n 2 tests/witnesses/test_recorded_bytes.py
	$(BIN)/python docs/make_coverage.py
	$(BIN)/python docs/make_trainer_defaults.py
	$(BIN)/python docs/make_trainer_runs.py
	$(BIN)/python -m pip install --quiet --editable '.[spark]'
	$(BIN)/python docs/make_exports.py
	for release in 1.14 1.16; do .venv-trl-$$release/bin/python -m tests.cases.trl_steps || exit 1; .venv-trl-$$release/bin/python -m tests.cases.trl_evaluations || exit 1; done
	for release in 4.45 4.48 4.57; do .venv-$$release/bin/python -m tests.cases.release_steps || exit 1; done

published: .venv/test
	$(BIN)/python docs/make_accuracy.py --published

inference: .venv/test
	$(BIN)/python docs/make_accuracy.py --inference

figures: .venv/base
	$(BIN)/python docs/make_figures.py

.venv-trl-%/made: pyproject.toml # a release of TRL, whose trainer's steps are measured
	$(PYTHON) -m venv .venv-trl-$*
	.venv-trl-$*/bin/python -m pip install --quiet --editable '.[trace]' 'trl==$*.*' pytest
	touch $@

.venv-%/made: pyproject.toml # an earlier release of transformers, whose steps are measured
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --editable . torch accelerate 'transformers==$*.*' 'peft==0.18.*'
	touch $@

.venv/base: EXTRA :=
.venv/%: EXTRA = [$*]
.venv/base .venv/docs .venv/test: .venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.$(EXTRA)'
	$(BIN)/python -m compileall -q estimator
	touch $@
