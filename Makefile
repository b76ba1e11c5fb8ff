# PYTHON: the interpreter for a new environment; default: the first of these that runs and has a supported version.
# VENV: the environment; an existing one is used, and missing packages are installed. MODEL, IMAGE, ARGS: see `make help`.
PYTHON ?= python3.11 python3.10 python3.12 python3
VENV ?= .venv
BIN := $(VENV)/bin
TINY := paddlemix/examples/llava/tiny
MODEL = $(TINY)/model
IMAGE = $(TINY)/shapes.png
ARGS =

# Succeed silently for a suitable interpreter; otherwise say in one line why it is not suitable.
CHECK_PYTHON := import sys, importlib.util as u; v = sys.version_info; \
	v[:2] in ((3, 10), (3, 11), (3, 12)) or sys.exit("is Python %d.%d" % v[:2]); \
	u.find_spec("ensurepip") or sys.exit("has no ensurepip (on Debian and Ubuntu: apt install python3-venv)")

# The oldest supported paddle, which matches paddle-custom-npu. These tests need no reference package.
PADDLE300 := .venv-paddle300
PADDLE300_TESTS := $(addprefix tests/npu_sim/test_,scripts_on_npu.py cards.py eval_on_cards.py strict.py operations.py simulator.py) \
	tests/test_accelerators.py tests/train/test_steps.py

# The newest transformers and peft. paddlenlp conflicts with them; chat and conversion do not need it.
TRANSFORMERS5 := .venv-transformers5
TRANSFORMERS5_TESTS := tests/transformers5 tests/hub/test_huggingface.py \
	$(addprefix tests/parity/test_,logits.py towers.py families.py foreign_keys.py)

# Ray for several machines, without the packages of training. nginx is tried too if it is installed.
CLUSTER := .venv-cluster

.PHONY: help chat serve test test-paddle300 test-transformers5 test-browser test-cluster lint tiny clean install install-dev

help:
	@echo "make chat    chat with the bundled model   (MODEL=folder IMAGE=file ARGS='--temperature 0.7')"
	@echo "make serve   serve the bundled model, with a page to chat (MODEL=folder ARGS='--port 8080')"
	@echo "make test    run the tests                 (ARGS='tests/image -k anyres')"
	@echo "make test-paddle300       some tests on paddlepaddle 3.0.0, with the simulated Ascend device"
	@echo "make test-transformers5   the tests of Hugging Face folders with the newest transformers and peft"
	@echo "make test-browser         the web page in Chromium (on Debian and Ubuntu: apt install chromium)"
	@echo "make test-cluster         the tests of Ray replicas and of nginx, for a server on several machines"
	@echo "make lint    check style and format"
	@echo "make tiny    retrain the bundled model"
	@echo "make clean   remove .venv, caches and build folders"
	@echo "The first call creates the environment $(VENV); PYTHON=... and VENV=... choose another."

chat: install
	@$(BIN)/paddlemix chat --model-path $(MODEL) --image-file $(IMAGE) --temperature 0 $(ARGS)

serve: $(VENV)/.installed-serve
	@$(BIN)/paddlemix serve --model-path $(MODEL) $(ARGS)

# Several processes (tests/conftest.py says how many) start slower: files or folders in ARGS are tested by one process.
test: install-dev
	$(BIN)/python -m pytest $(if $(findstring tests/,$(ARGS)),,-n auto --dist loadfile )$(ARGS)

test-paddle300:
	@PIP_CONSTRAINT="$(abspath tests/npu_sim/paddle300.txt)" $(MAKE) -s install VENV=$(PADDLE300)
	@$(PADDLE300)/bin/python -m pip install -q --disable-pip-version-check 'pytest>=8' </dev/null >&2
	$(PADDLE300)/bin/python -m pytest $(PADDLE300_TESTS) $(ARGS)

test-transformers5: $(TRANSFORMERS5)/.installed-newest
	$(TRANSFORMERS5)/bin/python -m pytest $(TRANSFORMERS5_TESTS) $(ARGS)

test-browser: install-dev $(VENV)/.installed-browser
	PADDLEMIX_TEST_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

test-cluster: $(CLUSTER)/.installed-cluster
	$(CLUSTER)/bin/python -m pytest tests/cluster $(ARGS)

lint: install-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

tiny: install
	PATH="$(abspath $(BIN)):$$PATH" bash $(TINY)/train.sh

clean:
	rm -rf .venv $(PADDLE300) $(TRANSFORMERS5) $(CLUSTER) build dist *.egg-info .pytest_cache .ruff_cache
	find paddlemix tests -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# Keep an installed build of paddle for an accelerator (paddlepaddle-gpu, ...): the CPU build would overwrite it.
$(VENV)/.installed: requirements.txt setup.py | $(BIN)/python
	@echo "installing requirements.txt and paddlemix into $(VENV): about 2-3 minutes, once" >&2
	@if $(BIN)/python -m pip list --format=freeze 2>/dev/null | grep -q '^paddlepaddle[-_]'; \
	then grep -v '^paddlepaddle[<>=]' requirements.txt; else cat requirements.txt; fi > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt </dev/null >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e . </dev/null >&2
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "installing requirements-dev.txt into $(VENV): about 1-2 minutes, once" >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r $< -c $(VENV)/requirements.txt </dev/null >&2
	@touch $@

$(VENV)/.installed-serve: requirements-serve.txt $(VENV)/.installed
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r $< -c $(VENV)/requirements.txt </dev/null >&2
	@touch $@

$(VENV)/.installed-browser: tests/browser/requirements.txt $(VENV)/.installed-dev
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r $< -c $(VENV)/requirements.txt </dev/null >&2
	@touch $@

$(TRANSFORMERS5)/.installed-newest: requirements.txt tests/transformers5/requirements.txt setup.py
	@$(MAKE) -s $(TRANSFORMERS5)/bin/python VENV=$(TRANSFORMERS5)
	@echo "installing the newest transformers into $(TRANSFORMERS5): about 2 minutes, once" >&2
	@grep -Ev '^(paddlenlp|aistudio-sdk|datasets|pyarrow|huggingface_hub)' requirements.txt > $(TRANSFORMERS5)/requirements.txt
	@$(TRANSFORMERS5)/bin/python -m pip install -q --disable-pip-version-check -r $(TRANSFORMERS5)/requirements.txt \
		-r tests/transformers5/requirements.txt </dev/null >&2
	@$(TRANSFORMERS5)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e . </dev/null >&2
	@touch $@

$(CLUSTER)/.installed-cluster: requirements.txt requirements-serve.txt requirements-cluster.txt setup.py
	@$(MAKE) -s $(CLUSTER)/bin/python VENV=$(CLUSTER)
	@echo "installing Ray into $(CLUSTER): about 1-2 minutes, once" >&2
	@grep -Ev '^(paddlenlp|aistudio-sdk|datasets|pyarrow|matplotlib)' requirements.txt > $(CLUSTER)/requirements.txt
	@$(CLUSTER)/bin/python -m pip install -q --disable-pip-version-check -r $(CLUSTER)/requirements.txt \
		-r requirements-serve.txt -r requirements-cluster.txt 'pytest>=8' </dev/null >&2
	@$(CLUSTER)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e . </dev/null >&2
	@touch $@

$(BIN)/python:
	@seen=""; for name in $(PYTHON); do \
		if ! command -v $$name >/dev/null; then seen="$$seen; $$name: not found"; continue; fi; \
		if why=$$($$name -c '$(CHECK_PYTHON)' 2>&1); then \
			echo "creating the environment $(VENV) with $$name" >&2; exec $$name -m venv $(VENV) </dev/null; fi; \
		seen="$$seen; $$name: $$(echo "$$why" | head -n 1)"; \
	done; \
	echo "error: no Python 3.10, 3.11 or 3.12 that can create an environment$$seen." >&2; \
	echo "Install one, or specify it: make chat PYTHON=/path/to/python3.11" >&2; exit 1
