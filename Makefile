# make demo and make test need nothing but Python 3.11 or newer: each sets the environment up first.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready

.PHONY: demo test slow check format bench docs golden clean

demo: $(READY)
	$(VENV)/bin/gossamer demo --out demo-out --force

test: $(READY)
	$(PY) -m pytest -n 2

slow: $(READY)
	$(PY) -m pytest -n 2 -m slow

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(READY)
	$(PY) benchmarks/ptq.py

docs: $(READY)
	$(PY) docs/generate.py

golden: $(READY)
	GOSSAMER_GOLDEN=1 $(PY) -m pytest -q tests/program tests/test_flow.py

clean:
	rm -rf $(VENV) demo-out demo-out.html build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[compress,images,hf,openvino,report,dev]"
	touch $@
