"""A Citus coordinator: PostgreSQL whose schemas and tables live on several machines.

Sources: Citus manual, *Creating and Modifying Distributed Objects* and *Citus Utility Functions*;
its source for what is refused.
"""

from __future__ import annotations

from typing import ClassVar

from .postgresql import PostgreSQL

__all__ = ["Citus"]


class Citus(PostgreSQL):
    """As PostgreSQL, and what the workers must be told."""

    has_distribution: ClassVar[bool] = True

    def arm(self, *, path: str, session: bool, tenant_key: str | None = None) -> str:
        statement = super().arm(path=path, session=session, tenant_key=tenant_key)
        if tenant_key is None:
            return statement  # names are looked up on the coordinator
        # Policies ask on the workers who the tenant is, and there no other SET than a SET LOCAL
        # after this one arrives. A session could not be armed: it would read nothing, in silence.
        if session:
            return (
                "DO $tenantry$ BEGIN RAISE feature_not_supported USING MESSAGE = 'settings of a "
                "session do not reach the workers of a Citus; use a transaction'; END $tenantry$"
            )
        return f"SET LOCAL citus.propagate_set_commands TO 'local'; {statement}"

    def distribute_schema(self, schema: str) -> str:
        """The statement that gives a schema and what is made in it a worker; repeatable."""
        return f"SELECT pg_catalog.citus_schema_distribute({self._quoted_name(schema)})"

    def distribute_table(self, schema: str, table: str, column: str | None) -> str:
        """The statement that spreads a table by *column*; ``None``: each worker has all of it.

        It does nothing where the table is spread already.
        """
        name = self._quoted_name(schema, table)
        if column is None:
            call = f"create_reference_table({name})"
        else:
            text = column.replace("'", "''")
            call = f"create_distributed_table({name}, '{text}')"
        return (
            f"SELECT pg_catalog.{call} WHERE NOT EXISTS (SELECT FROM "  # noqa: S608  # names of models
            f"pg_catalog.pg_dist_partition WHERE logicalrelid = {name}::pg_catalog.regclass)"
        )

    def _quoted_name(self, *names: str) -> str:
        return "'" + ".".join(map(self.quote, names)).replace("'", "''") + "'"
