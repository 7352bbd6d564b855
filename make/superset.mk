# A real Superset, in an environment of its own: it pins SQLAlchemy 1.4.

.PHONY: superset-demo test-superset test-superset-if-changed lock-superset

# A release that has a lock in requirements/: 6.1.0 runs everything, an older one what
# tests/superset/conftest.py lists.
SUPERSET ?= 6.1.0

superset-demo:
	@TENANTRY_SUPERSET=$(SUPERSET) python3 examples/superset/demo.py

# The environment (.build/superset-venv-*) and an initialised metadata database are kept; both are
# named after what they were made from. ARGS="-k browser" goes to pytest.
test-superset: newest
	TENANTRY_SUPERSET=$(SUPERSET) $(NEWEST)/bin/pytest tests/superset -s --timeout 1800 $(ARGS)

# For CI: takes minutes, so only where the adapter or its Superset changed since BASE, and only
# where Superset can be installed.
BASE ?= HEAD~1
SUPERSET_PATHS := src/tenantry/integrations/superset src/tenantry/directory src/tenantry/servers.py \
	tests/superset examples/superset requirements/superset*.txt make/superset.mk
test-superset-if-changed:
	@if ! git rev-parse --quiet --verify '$(BASE)^{commit}' >/dev/null; then \
		echo 'Superset left out: no commit $(BASE) to compare with'; \
	elif git diff --quiet '$(BASE)' -- $(SUPERSET_PATHS); then \
		echo 'Superset left out: nothing of it has changed since $(BASE)'; \
	elif ! TENANTRY_SUPERSET=$(SUPERSET) python3 examples/superset/environment.py; then \
		echo 'Superset left out: it cannot be installed here, see above'; \
	else \
		$(MAKE) test-superset; \
	fi

# What is locked stays; LOCKED_ON=2026-01-15 takes nothing newer than that day, for a new lock.
LOCK_OF_SUPERSET = requirements/superset$(if $(filter-out 6.1.0,$(SUPERSET)),-$(SUPERSET)).txt
lock-superset:
	sed 's/^apache-superset==.*/apache-superset==$(SUPERSET)/' requirements/superset.in \
		| uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url $(if $(LOCKED_ON),--exclude-newer $(LOCKED_ON)) - -o $(LOCK_OF_SUPERSET)
