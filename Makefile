# Everything happens inside .venv, which the first target that needs it sets up.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format clean

demo: .venv/.ready
	$(BIN)/ambient demo --out demo

test: .venv/.ready
	$(BIN)/python -m pytest

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.venv/src $(BIN)/mypy -p ambient

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# .venv/src/ambient links to the checkout: type checkers need the package under its name.
.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ambient needs Python >= 3.11; set PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	mkdir -p .venv/src
	ln -sfn '$(CURDIR)' .venv/src/ambient
	touch $@

clean:
	rm -rf .venv build *.egg-info demo runs
