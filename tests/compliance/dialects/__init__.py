"""SQLAlchemy's own dialect suite through a routed engine."""
