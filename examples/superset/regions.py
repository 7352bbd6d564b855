"""Three regions and a head office: databases of the same tables with different rows."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

ROWS = {"uk": 3, "aus": 5, "eu": 7, "hq": 11}
"""How many sales each region has, so that a count already tells whose rows one sees."""

TABLE = """
CREATE TABLE sales (
    id integer PRIMARY KEY,
    region varchar(20) NOT NULL,
    product varchar(40) NOT NULL,
    amount integer NOT NULL,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    sold_on date NOT NULL
)
"""


@dataclass(frozen=True)
class Region:
    """One region's database and the login that reads it."""

    name: str
    host: str
    port: int
    password: str = field(repr=False)
    driver: str = "postgresql"

    @property
    def login(self) -> str:
        return f"svc_{self.name}"

    @property
    def database(self) -> str:
        return f"sales_{self.name}"

    def variables(self) -> dict[str, str]:
        """What tells `configure` about this region."""
        prefix = f"DB_{self.name.upper()}_"
        return {
            f"{prefix}HOST": self.host,
            f"{prefix}PORT": str(self.port),
            f"{prefix}USER": self.login,
            f"{prefix}PASS": self.password,
            f"{prefix}DB": self.database,
            f"{prefix}DRIVER": self.driver,
        }


def sales(region: str, count: int) -> list[tuple[Any, ...]]:
    """The rows of a region: every product is named after it."""
    return [
        (
            number,
            region,
            f"{region}-product-{number}",
            100 * number + len(region),
            10.0 + number,
            20.0 + number,
            f"2026-0{1 + number % 9}-15",
        )
        for number in range(1, count + 1)
    ]


def make_postgresql(host: str, port: int, user: str, password: str) -> dict[str, Region]:
    """Make a database, a login and rows for each region, with an account that may do that."""
    regions = {}
    with connected(host, port, user, password, "postgres") as run:
        for name in ROWS:
            region = Region(name, host, port, secrets.token_urlsafe(18))
            run(f"DROP DATABASE IF EXISTS {region.database} WITH (FORCE)")
            run(f"DROP ROLE IF EXISTS {region.login}")
            run(f"CREATE ROLE {region.login} LOGIN PASSWORD '{region.password}'")
            run(f"CREATE DATABASE {region.database} OWNER {region.login}")
            run(f"REVOKE CONNECT ON DATABASE {region.database} FROM PUBLIC")
            regions[name] = region
    for name, region in regions.items():
        with connected(host, port, region.login, region.password, region.database) as run:
            run(TABLE)
            for row in sales(name, ROWS[name]):
                run("INSERT INTO sales VALUES (%s, %s, %s, %s, %s, %s, %s)", row)
    return regions


def make_mysql(host: str, port: int, user: str, password: str) -> dict[str, Region]:
    """As :func:`make_postgresql`, on MySQL or MariaDB."""
    import pymysql

    regions = {}
    connection = pymysql.connect(
        host=host, port=port, user=user, password=password, autocommit=True
    )
    with connection, connection.cursor() as cursor:
        for name, count in ROWS.items():
            region = Region(name, host, port, secrets.token_urlsafe(18), "mysql+pymysql")
            cursor.execute(f"DROP DATABASE IF EXISTS {region.database}")
            cursor.execute(f"DROP USER IF EXISTS '{region.login}'@'%'")
            cursor.execute(f"CREATE DATABASE {region.database}")
            cursor.execute(f"CREATE USER '{region.login}'@'%' IDENTIFIED BY '{region.password}'")
            cursor.execute(f"GRANT SELECT ON {region.database}.* TO '{region.login}'@'%'")
            cursor.execute(f"USE {region.database}")
            cursor.execute(TABLE)
            cursor.executemany(
                "INSERT INTO sales VALUES (%s, %s, %s, %s, %s, %s, %s)", sales(name, count)
            )
            regions[name] = region
    return regions


@contextlib.contextmanager
def connected(host: str, port: int, user: str, password: str, database: str) -> Iterator[Any]:
    """A function that runs one statement in a connection of its own block."""
    import psycopg2

    connection = psycopg2.connect(
        host=host, port=port, user=user, password=password, dbname=database
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            yield lambda sql, values=None: cursor.execute(sql, values)
    finally:
        connection.close()
