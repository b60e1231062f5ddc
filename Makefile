# Each target does all of its own set-up: `make study` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV ?= .venv
OUT ?= study
BIN := $(VENV)/bin
ENV := HF_HUB_OFFLINE=1 MPLBACKEND=Agg

.PHONY: study test coverage oldest newest browser probes slow benchmark lint types docs check

study: $(VENV)/installed
	$(BIN)/loadbearing study --out $(OUT)

test: $(VENV)/installed-dev browser
	$(ENV) $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

# The share of lines and branches that the tests run, file by file, in workers and in processes that tests start.
coverage: $(VENV)/installed-dev browser
	$(BIN)/coverage erase
	$(ENV) $(BIN)/coverage run -m pytest -m "not slow" -n auto --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The tests with the oldest versions that pyproject.toml allows, and with the newest there are.
oldest: browser
	$(PYTHON) -m venv $(VENV)-oldest
	sed -n '/^dependencies/,/^]/s/^  "\([a-z0-9-]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml > $(VENV)-oldest/versions.txt
	$(VENV)-oldest/bin/python -m pip install --constraint $(VENV)-oldest/versions.txt --editable '.[dev]'
	$(ENV) $(VENV)-oldest/bin/python -m pytest -m "not slow" -n auto --dist loadfile

newest: browser
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --editable '.[dev]'
	$(ENV) $(VENV)-newest/bin/python -m pytest -m "not slow" -n auto --dist loadfile

# Chromium, in which the tests open the report; elsewhere than on Debian and Ubuntu, install it by hand.
browser:
	@command -v chromium >/dev/null || { apt-get update && apt-get install --yes --no-install-recommends chromium; } \
	  || { echo "the tests of the report need Chromium, as the command chromium: install it, as root"; exit 1; }

# The probes alone, as another project installs them: without a language-model library, without our other dependencies.
probes:
	$(PYTHON) -m venv $(VENV)-probes
	$(VENV)-probes/bin/python -m pip install --constraint constraints.txt torch numpy scikit-learn jaxtyping pytest
	$(VENV)-probes/bin/python -m pip install --no-deps .
	cd tests && OMP_NUM_THREADS=1 ../$(VENV)-probes/bin/python -m pytest \
	  --noconftest -p no:cacheprovider -o addopts=--import-mode=importlib \
	  test_probes.py test_estimators.py test_circular.py test_measures.py test_erasure.py test_subspace.py test_sweep.py

# Retrains an organism and compares it with the shipped one: minutes.
slow: $(VENV)/installed-dev
	$(ENV) $(BIN)/python -m pytest -m slow

# Time of the eight cells, of probe and patching sweeps, of watching a training, and recovered against built-in wires (trains the models with known wires: half an hour).
benchmark: $(VENV)/installed-dev
	$(ENV) $(BIN)/python benchmarks/channels_speed.py
	$(ENV) $(BIN)/python benchmarks/probe_sweep.py
	$(ENV) $(BIN)/python benchmarks/patch_sweep.py
	$(ENV) $(BIN)/python benchmarks/patch_gradient.py
	$(ENV) $(BIN)/python benchmarks/monitor_cost.py
	$(ENV) $(BIN)/python benchmarks/truth_models.py --out $(OUT)-truth
	$(ENV) $(BIN)/python benchmarks/truth.py --models $(OUT)-truth --out $(OUT)-truth/recovered.csv

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev
	$(BIN)/mypy

# The site, in docs/_build/html: its examples run, without a network; a warning is an error. The tests build it too.
docs: $(VENV)/installed-dev
	$(ENV) $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --jobs auto docs docs/_build/html

check: lint types test

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
