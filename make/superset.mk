# A real Superset, in an environment of its own: it pins SQLAlchemy 1.4.

.PHONY: superset-demo test-superset lock-superset

superset-demo:
	@PYTHONPATH= python3 examples/superset/demo.py

# The environment (.build/superset-venv-*) and an initialised metadata database are kept; both are
# named after what they were made from. ARGS="-k browser" goes to pytest.
test-superset: newest
	TENANTRY_SUPERSET=1 $(NEWEST)/bin/pytest tests/superset tests/integrations/test_superset_unit.py -s --timeout 1200 $(ARGS)

lock-superset:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --no-emit-index-url requirements/superset.in -o requirements/superset.txt
