"""The Superset adapter in a real Superset; only ``make test-superset`` runs these."""
