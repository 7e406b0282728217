# make setup | train | test | lint | parity | topology | bench. PY=python3.12 chooses another interpreter.
PY ?= python3
VENV := $(if $(filter python3,$(PY)),.venv,.venv-$(notdir $(PY)))
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKDIR ?= runs/quickstart

.PHONY: help setup train test lint parity topology bench
help:
	@echo 'make setup    a virtual environment in $(VENV), from pinned constraints'
	@echo 'make train    the quickstart: a tiny base model learns to call Python (WORKDIR=$(WORKDIR))'
	@echo 'make test     the tests'
	@echo 'make lint     ruff, pyright, shellcheck'
	@echo 'make parity   the live comparison with transformers and torch'
	@echo 'make topology the plan for TPUs that are not there (installs libtpu)'
	@echo 'make bench    side by side with Tunix, transformers and TRL (installs them, 3 GB)'

setup: $(VENV)/.ready

$(VENV)/.ready: setup.cfg constraints.txt
	@$(PY) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python " + sys.version.split()[0] + " found, 3.11 or newer needed: make PY=python3.12 $(MAKECMDGOALS)")'
	$(PY) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	@touch $@

train: setup
	$(RUN) -m torl_jax.train --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(RUN) -m torl_jax.report $(WORKDIR)

test: setup
	$(RUN) -m pytest -m 'not parity' --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(PIP) --editable '.[lint]'
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/shellcheck tpu_scripts/*.sh

parity: setup
	$(PIP) --editable '.[parity]'
	$(RUN) -m pytest -m parity

topology: setup
	$(PIP) --editable '.[plan]'
	$(RUN) -m pytest -m libtpu tests/planning

# Peers have environments of their own: what they need does not fit together.
.venv-tunix/.ready:
	$(PY) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check google-tunix==0.1.7
	@touch $@

.venv-torch/.ready:
	$(PY) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.12.1 trl==1.16.0
	@touch $@

bench: setup .venv-tunix/.ready .venv-torch/.ready
	$(RUN) -m benchmarks.side_by_side --out docs/benchmarks.md
