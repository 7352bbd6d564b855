# A real Superset, in an environment of its own: it pins SQLAlchemy 1.4.

.PHONY: superset-demo test-superset test-superset-if-changed lock-superset

superset-demo:
	@python3 examples/superset/demo.py

# The environment (.build/superset-venv-*) and an initialised metadata database are kept; both are
# named after what they were made from. ARGS="-k browser" goes to pytest.
test-superset: newest
	TENANTRY_SUPERSET=1 $(NEWEST)/bin/pytest tests/superset -s --timeout 1800 $(ARGS)

# For CI: takes minutes, so only where the adapter or its Superset changed since BASE.
BASE ?= HEAD~1
SUPERSET_PATHS := src/tenantry/integrations/superset src/tenantry/directory src/tenantry/servers.py \
	tests/superset examples/superset requirements/superset.txt make/superset.mk
test-superset-if-changed:
	@git diff --quiet $(BASE) -- $(SUPERSET_PATHS) && echo 'nothing of Superset has changed' \
		|| $(MAKE) test-superset

lock-superset:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url requirements/superset.in -o requirements/superset.txt
