# PYTHON: the interpreter for a new environment; default: the first of these that runs and has a supported version.
# VENV: the environment; an existing one is used, and missing packages are installed.
# CUDA: cu118, cu126 or cu129 installs paddle for NVIDIA cards. MODEL, IMAGE, ARGS: see `make help`.
PYTHON ?= python3.11 python3.10 python3.12 python3
VENV ?= .venv
CUDA ?=
BIN := $(VENV)/bin
INSTALL := tools/install.py
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
PADDLE300_TESTS := $(addprefix tests/npu_sim/test_,scripts_on_npu.py cards.py eval_on_cards.py tensor_parallel.py chat_on_cards.py \
	strict.py operations.py simulator.py) \
	tests/test_accelerators.py tests/train/test_steps.py

# The newest transformers and peft. paddlenlp conflicts with them; chat and conversion do not need it.
TRANSFORMERS5 := .venv-transformers5
TRANSFORMERS5_TESTS := tests/transformers5 tests/hub/test_huggingface.py \
	$(addprefix tests/parity/test_,logits.py towers.py families.py foreign_keys.py)

# Ray for several machines, without the packages of training. nginx is tried too if it is installed.
CLUSTER := .venv-cluster

# Other supported versions of Python than that of .venv, as far as they are installed, and tests that need no torch.
PYTHONS ?= python3.10 python3.12
PYTHONS_TESTS := $(addprefix tests/test_,accelerators.py cli.py device.py end_to_end.py imports.py output.py project.py) \
	tests/conversation tests/image tests/generate --ignore=tests/image/test_anyres.py

# The site of the pages in docs/, in both languages.
DOCS := .venv-docs

.PHONY: help chat serve test test-paddle300 test-transformers5 test-browser test-cluster test-install test-pythons \
	lint docs tiny clean install install-dev

help:
	@echo "make chat    chat with the bundled model   (MODEL=folder IMAGE=file ARGS='--temperature 0.7')"
	@echo "make serve   serve the bundled model, with a page to chat (MODEL=folder ARGS='--port 8080')"
	@echo "make test    run the tests                 (ARGS='tests/image -k anyres')"
	@echo "make test-paddle300       some tests on paddlepaddle 3.0.0, with the simulated Ascend device"
	@echo "make test-transformers5   the tests of Hugging Face folders with the newest transformers and peft"
	@echo "make test-browser         the web page in Chromium (on Debian and Ubuntu: apt install chromium)"
	@echo "make test-cluster         the tests of Ray replicas and of nginx, for a server on several machines"
	@echo "make test-install         the built package in empty environments: a chat, a training step, a server"
	@echo "make test-pythons         some tests with Python 3.10 and 3.12, as far as they are installed"
	@echo "make lint    check style and format"
	@echo "make docs    build the site of the documentation in site/, and check its links"
	@echo "make tiny    retrain the bundled model"
	@echo "make clean   remove .venv, caches and build folders"
	@echo "The first call creates the environment $(VENV); PYTHON=... and VENV=... choose another. On NVIDIA cards add"
	@echo "CUDA=cu126 (or cu118, cu129) to the first call. To use the environment: . $(BIN)/activate"

chat: install
	@$(BIN)/paddlemix chat --model-path $(MODEL) --image-file $(IMAGE) --temperature 0 $(ARGS)

serve: $(VENV)/.installed-serve
	@$(BIN)/paddlemix serve --model-path $(MODEL) $(ARGS)

# Several processes (tests/conftest.py says how many) start slower: files or folders in ARGS are tested by one process.
test: install-dev
	$(BIN)/python -m pytest $(if $(findstring tests/,$(ARGS)),,-n auto --dist loadfile )$(ARGS)

test-paddle300:
	@PIP_CONSTRAINT="$(abspath tests/npu_sim/paddle300.txt)" $(MAKE) -s install VENV=$(PADDLE300)
	@$(PADDLE300)/bin/python $(INSTALL) "pytest" 'pytest>=8'
	$(PADDLE300)/bin/python -m pytest $(PADDLE300_TESTS) $(ARGS)

test-transformers5: $(TRANSFORMERS5)/.installed-newest
	$(TRANSFORMERS5)/bin/python -m pytest $(TRANSFORMERS5_TESTS) $(ARGS)

test-browser: install-dev $(VENV)/.installed-browser
	PADDLEMIX_TEST_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

test-cluster: $(CLUSTER)/.installed-cluster
	$(CLUSTER)/bin/python -m pytest tests/cluster $(ARGS)

test-install: install-dev
	PADDLEMIX_TEST_INSTALL=1 $(BIN)/python -m pytest tests/install $(ARGS)

test-pythons:
	@for name in $(PYTHONS); do \
		if ! $$name -c '$(CHECK_PYTHON)' 2>/dev/null; then echo "skipped: $$name is not installed"; continue; fi; \
		venv=.venv-$$(basename $$name); \
		$(MAKE) -s install VENV=$$venv PYTHON=$$name && \
		grep -Ev '^(torch|bitsandbytes|peft)' requirements-dev.txt > $$venv/tests.txt && \
		$$venv/bin/python $(INSTALL) "packages of the tests" -r $$venv/tests.txt && \
		$$venv/bin/python -m pytest $(PYTHONS_TESTS) $(ARGS) || exit 1; \
	done

lint: install-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

docs: $(DOCS)/.installed-docs
	@for config in mkdocs.yml mkdocs_zh.yml; do \
		NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build -q --strict -f $$config || exit 1; done
	@echo "site/index.html; with the search: python -m http.server --directory site --bind 127.0.0.1 8001"

tiny: install
	PATH="$(abspath $(BIN)):$$PATH" bash $(TINY)/train.sh

clean:
	rm -rf .venv .venv-python3.* $(PADDLE300) $(TRANSFORMERS5) $(CLUSTER) $(DOCS) site build dist *.egg-info .pytest_cache .ruff_cache
	find paddlemix tests -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# Keep an installed build of paddle for an accelerator (paddlepaddle-gpu, ...): the CPU build would overwrite it.
$(VENV)/.installed: requirements.txt setup.py | $(BIN)/python
	@if [ -n "$(CUDA)" ]; then $(BIN)/python $(INSTALL) "paddle for CUDA" 'paddlepaddle-gpu>=3.0.0,<3.4' \
		-i https://www.paddlepaddle.org.cn/packages/stable/$(CUDA)/; fi
	@if $(BIN)/python -m pip list --format=freeze 2>/dev/null | grep -q '^paddlepaddle[-_]'; \
	then grep -v '^paddlepaddle[<>=]' requirements.txt; else cat requirements.txt; fi > $(VENV)/requirements.txt
	@echo "installing paddle and what else paddlemix needs into $(VENV): 1.6 GB, 2 to 4 minutes, once" >&2
	@$(BIN)/python $(INSTALL) "[1/2] packages" -r $(VENV)/requirements.txt
	@$(BIN)/python $(INSTALL) "[2/2] paddlemix" --no-deps -e .
	@touch $@
	@echo 'The command `paddlemix` is ready in each shell after:  . $(BIN)/activate' >&2

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@$(BIN)/python $(INSTALL) "packages of the tests" -r $< -c $(VENV)/requirements.txt
	@touch $@

$(VENV)/.installed-serve: requirements-serve.txt $(VENV)/.installed
	@$(BIN)/python $(INSTALL) "packages of the server" -r $< -c $(VENV)/requirements.txt
	@touch $@

$(VENV)/.installed-browser: tests/browser/requirements.txt $(VENV)/.installed-dev
	@$(BIN)/python $(INSTALL) "packages of the browser tests" -r $< -c $(VENV)/requirements.txt
	@touch $@

$(TRANSFORMERS5)/.installed-newest: requirements.txt tests/transformers5/requirements.txt setup.py
	@$(MAKE) -s $(TRANSFORMERS5)/bin/python VENV=$(TRANSFORMERS5)
	@grep -Ev '^(paddlenlp|aistudio-sdk|datasets|pyarrow|huggingface_hub)' requirements.txt > $(TRANSFORMERS5)/requirements.txt
	@$(TRANSFORMERS5)/bin/python $(INSTALL) "the newest transformers" -r $(TRANSFORMERS5)/requirements.txt \
		-r tests/transformers5/requirements.txt
	@$(TRANSFORMERS5)/bin/python $(INSTALL) "paddlemix" --no-deps -e .
	@touch $@

$(CLUSTER)/.installed-cluster: requirements.txt requirements-serve.txt requirements-cluster.txt setup.py
	@$(MAKE) -s $(CLUSTER)/bin/python VENV=$(CLUSTER)
	@grep -Ev '^(paddlenlp|aistudio-sdk|datasets|pyarrow|matplotlib)' requirements.txt > $(CLUSTER)/requirements.txt
	@$(CLUSTER)/bin/python $(INSTALL) "paddle and Ray" -r $(CLUSTER)/requirements.txt \
		-r requirements-serve.txt -r requirements-cluster.txt 'pytest>=8'
	@$(CLUSTER)/bin/python $(INSTALL) "paddlemix" --no-deps -e .
	@touch $@

$(DOCS)/.installed-docs: requirements-docs.txt
	@$(MAKE) -s $(DOCS)/bin/python VENV=$(DOCS)
	@$(DOCS)/bin/python $(INSTALL) "mkdocs" -r $<
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
