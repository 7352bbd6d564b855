"""The example's configuration where tenants live on MySQL or MariaDB, through PyMySQL."""

# mypy: ignore-errors
# Written as Superset's users write theirs, and read by Superset, which is not installed here.

import sys
from pathlib import Path

import pymysql

# Superset's own part for MySQL imports MySQLdb, whatever driver the address names.
pymysql.install_as_MySQLdb()

sys.path.insert(0, str(Path(__file__).parents[2]))
# The path comes first, and Superset reads the names of this module.
from examples.superset.superset_config import *  # noqa: E402,F403
