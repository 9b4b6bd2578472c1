# Two commands: `make train` and `make test`. Each needs GNU make, Python 3.10-3.12 with venv, and a package registry; a
# second call re-uses what the first one left. `make help` lists the rest.

CONFIG  ?= configs/rtformer/rtformer_bear.yml
ARGS    ?=
RUN     ?= output/$(basename $(notdir $(CONFIG)))
WORKERS ?= 2
TESTS   ?= tests
MODE    ?= lite_train_lite_infer
JOBS    ?= 2

# The first interpreter that Paddle has wheels for; `make PYTHON=/path/to/python3.11` overrides.
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' >/dev/null 2>&1 && echo $$p && break; done)
endif

PY      := .venv/bin/python
PIP     := $(PY) -m pip install -qq --constraint requirements/constraints.txt
# Sample data that the recipe, or one it builds on, reads from data/<name> is fetched, or drawn, before training. Both
# lists are read from the files themselves, so that `make -n` needs no Python.
HASH    := \#
BASES   := $(addprefix $(dir $(CONFIG)),$(shell sed -n 's/^_base_: *//p' $(CONFIG) 2>/dev/null | tr -d '[],'))
SAMPLES := $(shell sed -n 's/^ *"\([a-z0-9_]*\)": Sample.*/\1/p' ppvision/data/samples/fetch.py)
OWN     := $(sort $(filter $(SAMPLES),$(shell sed 's/$(HASH).*//' $(CONFIG) $(BASES) 2>/dev/null | grep -oE '\<data/[a-z0-9_]+' | cut -d/ -f2)))
PARTS   := setup.py pyproject.toml requirements/constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# paddle2onnx would otherwise install packages while it runs.
export POLYGRAPHY_AUTOINSTALL_DEPS := 0

.DELETE_ON_ERROR:
.PHONY: help train test tipc smoke lint docs picture oracles samples clean

help:
	@echo 'make train [CONFIG=configs/....yml] [ARGS="-o key=value ..."] [RUN=folder]'
	@echo '             train (or resume), evaluate, export with parity table, run the export, draw predictions'
	@echo 'make test  [TESTS=tests/...] [WORKERS=2]   all tests, upstream comparisons included'
	@echo 'make tipc  [MODE=lite_train_lite_infer] [JOBS=2]   every system: train, evaluate, export, infer, compare'
	@echo 'make smoke PADDLE=3.1.1   training and the whole chain on another Paddle version'
	@echo 'make lint    ruff check and format check      make docs     regenerate the tables of README and docs'
	@echo 'make picture draw the picture of README.md again'
	@echo 'make oracles install the upstream packages    make samples  fetch the sample photographs'
	@echo 'make clean   remove environments and caches (output/ and data/ stay)'

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found; install one or pass PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; apt-get install python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import ctypes, sys; sys.platform != "linux" or ctypes.CDLL("libgomp.so.1")' 2>/dev/null || \
		{ echo "error: Paddle needs libgomp.so.1; apt-get install libgomp1" >&2; exit 2; }
	@echo "[setup] virtual environment in .venv ($(PYTHON))"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.runtime: $(PARTS) | .venv/bin/python
	@echo "[setup] ppvision with CPU Paddle (about 300 MB the first time)"
	@$(PIP) --editable '.[cpu,onnx,detection]'
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "[setup] test tools"
	@$(PIP) --editable '.[cpu,onnx,detection,vdl,dev]'
	@touch $@

# Upstream packages live apart: their requirements contradict each other and ours, so they come without dependencies.
.venv-oracles/.ready: requirements/upstream.txt requirements/upstream_apart.txt | .venv/bin/python
	@echo "[setup] upstream packages in .venv-oracles"
	@test -x .venv-oracles/bin/python || $(PYTHON) -m venv .venv-oracles || { rm -rf .venv-oracles; exit 1; }
	@.venv-oracles/bin/python -m pip install -qq --no-deps --requirement requirements/upstream.txt
	@.venv-oracles/bin/python -m pip install -qq --no-deps --upgrade --target .venv-oracles/apart \
		--requirement requirements/upstream_apart.txt
	@touch $@

oracles: .venv-oracles/.ready

samples: .venv/.runtime
	@echo "[setup] sample data"
	@$(PY) tools/data.py fetch samples

train: .venv/.runtime
	@$(if $(OWN),$(PY) tools/data.py fetch $(OWN))
	@echo "[1/5] train $(CONFIG) -> $(RUN)"
	@$(PY) tools/train.py --config $(CONFIG) --save_dir $(RUN) --resume auto $(ARGS)
	@echo "[2/5] evaluate"
	@$(PY) tools/eval.py --config $(RUN)/config.yml --model_path $(RUN)/best_model
	@echo "[3/5] export"
	@$(PY) tools/export.py --config $(RUN)/config.yml --model_path $(RUN)/best_model --save_dir $(RUN)/export
	@echo "[4/5] Paddle Inference on the export"
	@$(PY) tools/pictures.py list --config $(RUN)/config.yml --output $(RUN)/predictions/images.txt
	@$(PY) deploy/python/infer.py --config $(RUN)/export/deploy.yaml --image_path $(RUN)/predictions/images.txt \
		--save_dir $(RUN)/predictions --device cpu
	@echo "[5/5] pictures beside their inputs"
	@$(PY) tools/pictures.py beside --config $(RUN)/config.yml --predictions $(RUN)/predictions
	@echo "done: $(RUN)/{best_model,export,predictions}"

test: .venv/.dev .venv-oracles/.ready samples
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(TESTS) $(ARGS)

# The chains of test_tipc/; `make test` runs one of them.
tipc: .venv/.runtime
	@$(PY) test_tipc/tipc.py check
	@$(PY) test_tipc/tipc.py run --all --mode $(MODE) --jobs $(JOBS) $(ARGS)

# The oldest and the middle Paddle that are supported: make smoke PADDLE=3.1.1
smoke:
	@test -n "$(PADDLE)" || { echo "error: say which Paddle: make smoke PADDLE=3.1.1" >&2; exit 2; }
	@test -x .venv-$(PADDLE)/bin/python || $(PYTHON) -m venv .venv-$(PADDLE)
	@.venv-$(PADDLE)/bin/python -m pip install -qq paddlepaddle==$(PADDLE) --editable '.[cpu,onnx,detection,vdl,dev]'
	@OMP_NUM_THREADS=1 .venv-$(PADDLE)/bin/python -m pytest -q tests/test_whole_chain.py tests/engine $(ARGS)

lint: .venv/.dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

docs: .venv/.runtime
	@$(PY) tools/tables.py

# The picture of README.md: scenes, network, export and drawing all come from here.
STREET := configs/rtformer/rtformer_street.yml
picture:
	@$(MAKE) --no-print-directory train CONFIG=$(STREET) RUN=output/rtformer_street
	@$(PY) tools/pictures.py beside --config output/rtformer_street/config.yml --limit 2 --height 160 \
		--predictions output/rtformer_street/predictions --sheet docs/images/street.png

clean:
	rm -rf .venv .venv-oracles build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
