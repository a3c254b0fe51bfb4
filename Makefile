# `make demo`  a small study of a bundled model: demo/report.html
# `make check` lint, types, import layers, limits        `make test`  the default tier
# `make parity` against TRL    `make golden`  stored trajectories    `make test-slow`  real kills
# `make test-cuda`  an 8B-shaped model on a GPU of 24 GiB
# `make bench`  beside TRL, 15 minutes on a quiet machine   `make bench-full`  everything, hours

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check parity golden test-slow test-cuda oracle serve bench bench-full format picture clean worlds worlds-quick

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The constraints come first so that torch is the tested build, not the newest one.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e ".[test]"
	touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(PIP) -e ".[lint]"
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-test
	$(PIP) -e ".[test,parity]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/tether demo --output-dir demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

# The checker's heap gets a large nursery: an eighth less time in all, as it collects less garbage.
check: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/limits.py
	$(BIN)/lint-imports
	$(BIN)/python tools/import_all.py
	NODE_OPTIONS=--max-semi-space-size=128 $(BIN)/basedpyright

parity: $(VENV)/.installed-parity
	$(BIN)/python -m pytest -m parity -n 0 -rs

golden: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m golden -n 0

# An 8B-shaped random model with LoRA under 24 GiB, in bf16 and in 4 bit; skips with the reason where it cannot.
test-cuda: $(VENV)/.installed-test
	$(PIP) -e ".[test,quant]"
	$(BIN)/python -m pytest -m cuda -n 0 -rsP --timeout 3600

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow -n 2

# AlpacaEval's own package as the oracle of length control; in its own environment, it drags much along.
oracle:
	$(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	.venv-oracle/bin/pip install --quiet -c constraints.txt -e ".[test,oracle]"
	.venv-oracle/bin/python -m pytest -m oracle -n 0 -rs

# A real OpenAI-compatible server (`transformers serve`) with a tiny model, on the loopback address.
$(VENV)/.installed-serve: $(VENV)/.installed-test
	$(PIP) -e ".[test,serve]"
	touch $@

serve: $(VENV)/.installed-serve
	$(BIN)/python -m pytest -m serve -n 0 -rs

# Both programs in one environment of their own, so that they share torch and transformers to the digit.
.venv-bench/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	.venv-bench/bin/pip install --quiet -c constraints.txt -e ".[parity]"
	touch $@

bench: .venv-bench/.installed
	.venv-bench/bin/python -m bench

bench-full: .venv-bench/.installed
	.venv-bench/bin/python -m bench --full

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The README's picture, from the demo's page; needs Chromium.
picture: demo
	chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
	  --user-data-dir="$$(mktemp -d)" --hide-scrollbars --window-size=1100,1500 \
	  --screenshot=docs/report.png "file://$(CURDIR)/demo/report.html"

# Claims of the literature in worlds whose true reward is known; resumable. Writes docs/results.md.
worlds: $(VENV)/.installed
	$(BIN)/python -m studies

worlds-quick: $(VENV)/.installed
	$(BIN)/python -m studies --quick

clean:
	rm -rf $(VENV) .venv-oracle .venv-bench bench/results demo
