# Two commands: `make demo` sets up and prints an estimate and a figure; `make test` sets up and checks everything.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slowest docs page pages programs accuracy witness published inference figures

demo: .venv/base
	$(BIN)/estimator estimate llama-3.2-1b --method lora --r 16 --batch 1 --seq 2048
	$(BIN)/estimator compare llama-3.2-1b --methods full,lora,ia3 --devices rtx-4090 --output compare.png

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile

slowest: .venv/test # all tests, whose CPU time is measured, and the list of the slowest in tests/README.md
	$(BIN)/pytest -n 2 --dist loadfile -p tests.helpers.slowest

docs: .venv/docs # the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/estimator page --output site/page

page: .venv/base # the estimator as a page, in site/page/, for any static host
	$(BIN)/estimator page --output site/page

pages: .venv/test # what pages print and list, written anew: output of commands, options, files of each folder
	$(BIN)/python docs/make_keywords.py
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_walkthroughs.py
	$(BIN)/python docs/make_file_lists.py

programs: .venv/test # recorded programs, in model_specs/programs; takes most of an hour
	$(BIN)/python -m docs.making.programs

accuracy: .venv/test
	$(BIN)/python docs/make_accuracy.py

witness: .venv/test # what takes too long for every run; hours, unattended, and at the end what failed and what changed
	$(BIN)/python docs/make_witness.py

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

.venv-vllm-%/made: tests/cases/vllm_packages.py # a release of vLLM beside PyTorch for CPUs, whose model classes are asked
	$(PYTHON) -m venv .venv-vllm-$*
	$(PYTHON) tests/cases/vllm_packages.py $* .venv-vllm-$*/bin/python
	touch $@

.venv-sglang-%/made: # a release of SGLang alone beside PyTorch for CPUs, whose functions about memory are asked
	$(PYTHON) -m venv .venv-sglang-$*
	.venv-sglang-$*/bin/python -m pip install --quiet --no-deps 'sglang==$*'
	.venv-sglang-$*/bin/python -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
		'torch==2.13.0' 'transformers==5.24.*' msgspec
	touch $@

.venv-litgpt/made: pyproject.toml # litgpt, whose model is recorded, and whose loop's steps are measured
	$(PYTHON) -m venv .venv-litgpt
	.venv-litgpt/bin/python -m pip install --quiet --editable '.[quantised]' lightning jsonargparse psutil pytest hypothesis
	.venv-litgpt/bin/python -m pip install --quiet --no-deps 'litgpt==0.5.13' # it asks for an older huggingface-hub
	touch $@

.venv-llama-factory/made: pyproject.toml # LLaMA-Factory, whose trainers of preferences are recorded and measured
	$(PYTHON) -m venv .venv-llama-factory
	.venv-llama-factory/bin/python -m pip install --quiet --editable . torch 'transformers==4.57.6' 'trl==0.24.0' \
		'peft==0.18.1' 'accelerate==1.11.0' 'datasets==4.0.0' omegaconf sentencepiece tiktoken scipy pandas av einops
	.venv-llama-factory/bin/python -m pip install --quiet --no-deps 'llamafactory==0.9.5' # it asks for torchaudio, too
	touch $@

.venv-sentence-transformers/made: pyproject.toml # sentence-transformers, whose trainer is recorded and measured
	$(PYTHON) -m venv .venv-sentence-transformers
	.venv-sentence-transformers/bin/python -m pip install --quiet --editable '.[trace]' 'sentence-transformers==6.2.*' pytest
	touch $@

.venv-mlx/made: pyproject.toml # MLX and mlx-lm, whose steps and calls are measured on a CPU
	$(PYTHON) -m venv .venv-mlx
	.venv-mlx/bin/python -m pip install --quiet 'mlx[cpu]==0.32.*' 'mlx-lm==0.32.*'
	touch $@

.venv-deepspeed/made: pyproject.toml # DeepSpeed, whose ZeRO steps are measured on its CPU accelerator
	$(PYTHON) -m venv .venv-deepspeed
	DS_BUILD_OPS=0 .venv-deepspeed/bin/python -m pip install --quiet --editable '.[trace]' 'deepspeed==0.19.*'
	touch $@

.venv-executorch/made: pyproject.toml # ExecuTorch, whose exporter plans memory, and whose runtime runs programs
	$(PYTHON) -m venv .venv-executorch
	.venv-executorch/bin/python -m pip install --quiet --editable . 'executorch==1.5.1' 'torch==2.13.*'
	touch $@

.venv-%/made: pyproject.toml # an earlier release of transformers, whose steps are measured
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --editable . torch accelerate 'transformers==$*.*' 'peft==0.18.*'
	touch $@

.venv/base: EXTRA :=
.venv/%: EXTRA = [$*]
.venv/base .venv/docs .venv/test: .venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.$(EXTRA)'
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/lib2to3/' .venv/lib estimator || true # pip would take one core
	touch $@
