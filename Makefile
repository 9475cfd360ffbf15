# Every target that needs .venv makes it first.
PYTHON ?= python3
SEEDS ?= 0,1,2
MODEL ?= lenet5
DEVICE ?= cpu
RUN := .venv/bin/python
COMPILE = .venv/bin/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url $(UPGRADE)

# .venv knows its folder. Where that was moved or copied, it is made anew; a link to another checkout's is used as it is.
MOVED := $(shell [ ! -L .venv ] && [ -e .venv/.ready ] && [ "$$(cat .venv/.ready)" != "$(CURDIR)" ] && echo moved)

.PHONY: help setup clusters extras sweep search status reproduce forensics report predict draw verify archive bench docs test gpu lint lock clean
.DEFAULT_GOAL := help
.NOTPARALLEL:  # make -j4 sweep report: in this order

help:  ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: .venv/.ready  ## Make .venv and install the locked packages (PYTHON=python3.12 for another Python)

clusters: .venv/.ready  ## Add what sweeps on SLURM and Ray need: docs/clusters.md
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements-clusters.lock

extras: .venv/.ready  ## Add what make search, scripts/track.py and device.arithmetic=exact need
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements-extras.lock

sweep: .venv/.ready  ## Train the three models (SEEDS=0,1,2 by default; EXPERIMENT=quick for three epochs)
	$(RUN) -m mnist_exp.run -m $(if $(EXPERIMENT),experiment=$(EXPERIMENT),model=lenet5,lenet5r,mlp) 'seed=$(SEEDS)'
	@echo "Next: make report"

search: .venv/.ready  ## Search for the best settings of MODEL=lenet5, by validation accuracy; first: make extras
	$(RUN) -m mnist_exp.run experiment=search model=$(MODEL)
	@echo "Next: make report"

status: .venv/.ready  ## Show what is done, running, waiting and failed (python scripts/status.py --watch)
	@$(RUN) scripts/status.py

reproduce: .venv/.ready  ## Train the runs behind the published numbers (60), then: make report
	$(RUN) -m mnist_exp.run experiment=reproduce
	@echo "Next: make report"

forensics: .venv/.ready  ## Train with each of the two bugs alone (30 more runs)
	$(RUN) -m mnist_exp.run experiment=forensics
	@echo "Next: make report"

report: .venv/.ready  ## Make the tables, figures and page of all finished runs
	$(RUN) scripts/report.py

predict: .venv/.ready  ## Read a picture of a digit with the trained models (IMAGE=photo.jpg)
	@$(RUN) scripts/predict.py $(if $(IMAGE),"$(IMAGE)",--help)

draw: .venv/.ready  ## Make a page to draw digits in, which the trained models read
	$(RUN) scripts/draw.py

verify: .venv/.ready  ## Train stored runs again and compare the bytes (RUNS=outputs/runs/NAME for your own)
	$(RUN) scripts/verify.py $(RUNS)

archive: .venv/.ready  ## Pack source, runs and report into one zip file that says how to check them
	$(RUN) scripts/archive.py

bench: .venv/.ready  ## Measure speed and memory against the published way and the floor (15 minutes, on a quiet machine)
	$(RUN) scripts/benchmark.py --device $(DEVICE)

docs: .venv/.ready  ## Update the tables and figures of README.md and docs/ from outputs/reference
	$(RUN) scripts/report.py --runs outputs/reference/runs --out outputs/reference/report
	$(RUN) scripts/update_docs.py

test: .venv/.ready  ## Run the tests
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

gpu: .venv/.ready  ## Prove what is promised of a GPU, and measure it (skipped in part where there is none)
	$(RUN) -m pytest -m gpu -rs
	$(if $(shell $(RUN) -c 'import torch; print("yes" * torch.cuda.is_available())'),$(RUN) scripts/benchmark.py --device cuda --short)

lint: .venv/.ready  ## Check style, types and imports
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo --no-cache

lock: .venv/.ready  ## Update the locks to pyproject.toml, versions kept where it allows (UPGRADE=--upgrade: newest)
	.venv/bin/pip install -q uv
	$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	@# The extras' files start as copies, so that versions stay the same wherever the extras allow them.
	cp requirements.lock requirements-clusters.lock
	$(COMPILE) --extra slurm --extra ray --output-file requirements-clusters.lock pyproject.toml
	cp requirements.lock requirements-extras.lock
	$(COMPILE) --extra search --extra mlflow --extra tensorboard --extra exact --output-file requirements-extras.lock pyproject.toml
	sed -i '1i # Exact versions behind the published numbers, for every platform. Made by: make lock' requirements.lock
	sed -i '1i # What launchers for clusters add to requirements.lock, or hold back. Made by: make lock' requirements-clusters.lock
	sed -i '1i # What searches, trackers and exact arithmetic add to requirements.lock, or hold back. Made by: make lock' requirements-extras.lock

clean:  ## Remove .venv and caches; results and digits stay
	@if .venv/bin/python scripts/status.py 2>/dev/null | grep -qE '(^| )[0-9]+ running'; then \
		echo "Runs are training here (make status); stop them first, or wait for them." >&2; exit 1; fi
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis mnist_exp.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready: requirements.lock pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit("mnist_exp needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(if $(MOVED),--clear) .venv
	.venv/bin/python -m pip install --disable-pip-version-check --no-compile -r requirements.lock
	@.venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true  # as pip would, but on every core
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $@

.PHONY: moved
moved:
