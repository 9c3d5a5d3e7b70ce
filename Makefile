# Only Python >= 3.11 and make are needed. A second run reuses .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint clean

$(VENV)/installed-run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	touch $@

$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/installed-run

demo: $(VENV)/installed-run  ## the demo shop: one table, one report
	$(BIN)/mmfed compare simulations/demo.toml --set run.name=demo-$$(date +%Y%m%d-%H%M%S)

test: $(VENV)/installed-dev  ## the fast suite
	$(BIN)/python -m pytest

test-all: $(VENV)/installed-dev  ## the fast suite, then the slow one (real servers, real kills)
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist
