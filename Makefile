# Needs make and Python 3.10 to 3.13, nothing else; PYTHON=... names one that is not on PATH.
# Environments are made from the hash-locked files in requirements/ and made anew when these change.

BUILD := .build
NEWEST := .venv
OLDEST := $(BUILD)/venv-oldest
DEMO := $(BUILD)/venv-demo
WORKERS ?= 2

.PHONY: help demo test test-newest test-oldest lint types docs bench lock clean newest oldest

help:
	@echo 'make demo         a web application with three tenants; serves until Ctrl-C'
	@echo 'make test         everything: lint, types, tests on the newest and the oldest dependencies'
	@echo 'make test-newest  the tests alone; ARGS="-k pool" goes to pytest'
	@echo 'make test-oldest  the tests that run on the oldest supported dependencies'
	@echo 'make lint         ruff; make types: mypy; make docs: every example and every name in the docs'
	@echo 'make bench        the figures of the README, as ratios in one run'
	@echo 'make lock         write requirements/*.txt anew (needs uv); make clean: remove what make made'

newest:
	@.ci/venv $(NEWEST) requirements/test.txt

oldest:
	@.ci/venv $(OLDEST) requirements/oldest.txt

demo:
	@.ci/venv $(DEMO) requirements/demo.txt
	@$(DEMO)/bin/tenantry demo $(ARGS)

test: lint types test-newest test-oldest

lint: newest
	$(NEWEST)/bin/ruff check
	$(NEWEST)/bin/ruff format --check

types: newest
	$(NEWEST)/bin/mypy

test-newest: newest
	$(NEWEST)/bin/pytest -n $(WORKERS) --dist worksteal $(ARGS)

# Tests marked `newest` say why beside the mark; documentation and repository are checked once.
test-oldest: oldest
	$(OLDEST)/bin/pytest -n $(WORKERS) --dist worksteal -m 'not newest' $(ARGS)

docs: newest
	$(NEWEST)/bin/pytest tests/test_docs.py tests/test_public_face.py tests/test_repository.py $(ARGS)

bench: newest
	$(NEWEST)/bin/python -m benchmarks $(ARGS)

COMPILE := uv pip compile pyproject.toml --quiet --universal --python-version 3.10 --upgrade \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--group build

lock:
	$(COMPILE) --extra all --group test --group lint --group docs -o requirements/test.txt
	$(COMPILE) --extra all --group test --resolution lowest-direct -o requirements/oldest.txt
	$(COMPILE) --extra flask --extra cli -o requirements/demo.txt
	echo 'sqlalchemy<2' | $(COMPILE) --constraint - -o requirements/sa14.txt
	echo 'distributed>=2024.8' | $(COMPILE) --extra alembic --extra cli - -o requirements/dask.txt

clean:
	rm -rf $(BUILD) $(NEWEST) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

-include make/*.mk
