# make demo   set up and reconstruct the bundled study      make test   set up and run every gate
# make check  the gates without the tests                   make clean  remove what was installed and built
# Any Python from 3.11 on: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
# Named after what was asked for: an unchanged set-up is skipped whatever the time stamps say.
STAMP := .venv/installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# One thread a process, two processes: faster here than two threads in one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term:skip-covered

.PHONY: demo test check setup clean
.DEFAULT_GOAL := demo

demo: setup
	@$(BIN)/medidiff demo

test: check
	$(PYTEST)

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medidiff needs Python 3.11 or later, found " + sys.version.split()[0] + "; name one: make demo PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@rm -f .venv/installed-*
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage demo_output
