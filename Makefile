PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO ?= --size 160
TEST ?=
MUTANTS ?=

.PHONY: demo test coverage slow table mutants docs lint clean
.DEFAULT_GOAL := demo

# One environment serves every verb; it is rebuilt when the project's metadata change.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

demo: $(VENV)/ready   ## the cat gets the coffee cup's explanation; see runs/
	$(RUN) experiments/manipulate.py $(DEMO)

test: $(VENV)/ready   ## the default suite
	$(RUN) -m pytest $(TEST)

coverage: $(VENV)/ready   ## the default suite, and which lines and branches of the library it ran
	$(RUN) -m pytest --cov --cov-report= $(TEST)
	$(RUN) .ci/covered.py

slow: $(VENV)/ready   ## what takes minutes: full test splits, whole attacks
	$(RUN) -m pytest -m slow $(TEST)

table: $(VENV)/ready   ## every foreign model through every feature; writes docs/models.md
	$(RUN) -m pytest tests/foreign -m "slow or not slow" --write-table $(TEST)

docs: $(VENV)/ready   ## the pages as a site, in site/: open site/index.html
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(RUN) .ci/reference.py
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

mutants: $(VENV)/ready   ## do the tests notice single errors in the library? an hour, resumable; writes docs/mutants.md
	$(RUN) benchmarks/mutants.py $(MUTANTS)

lint: $(VENV)/ready   ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) runs site .pytest_cache .coverage
