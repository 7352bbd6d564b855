"""The article's configuration, corrected until it starts: what ours is measured against.

The tenant is the guest's user name, unknown names read the default database, and the caches are
those of part one of the article. The parameters are named, ``null`` is ``{}``, the URL is built
by SQLAlchemy, and a missing user is no error; nothing else is changed.
"""

# mypy: ignore-errors
# Written as Superset's users write theirs, and read by Superset, which is not installed here.

import os

from flask import g
from sqlalchemy.engine import URL

SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = os.environ["SUPERSET_METADATA_URL"]
GUEST_TOKEN_JWT_SECRET = os.environ["SUPERSET_GUEST_SECRET"]
GUEST_TOKEN_JWT_AUDIENCE = "superset"
GUEST_ROLE_NAME = "Guest"
FEATURE_FLAGS = {
    "EMBEDDED_SUPERSET": True,
    "ENABLE_TEMPLATE_PROCESSING": True,
    "DRILL_TO_DETAIL": True,
}

DBS = ["uk", "aus", "eu"]
DB_MAP = {}
for db in DBS:
    DB_MAP[db] = {
        "host": os.environ[f"DB_{db.upper()}_HOST"],
        "port": int(os.environ[f"DB_{db.upper()}_PORT"]),
        "dbname": os.environ.get(f"DB_{db.upper()}_DB") or "postgres",
        "user": os.environ.get(f"DB_{db.upper()}_USER") or "superset",
        "password": os.environ[f"DB_{db.upper()}_PASS"],
    }


def db_connection_mutator(sqlalchemy_uri, params, username, *_):
    db = getattr(getattr(g, "user", None), "username", None)
    if db in DB_MAP:
        cfg = DB_MAP[db]
        sqlalchemy_uri = URL.create(
            "postgresql",
            cfg["user"],
            cfg["password"],
            cfg["host"],
            cfg["port"],
            cfg["dbname"],
        )
    return sqlalchemy_uri, params


DB_CONNECTION_MUTATOR = db_connection_mutator


def cache(prefix):
    return {
        "CACHE_TYPE": "RedisCache",
        "CACHE_DEFAULT_TIMEOUT": 86400,
        "CACHE_KEY_PREFIX": prefix,
        "CACHE_REDIS_URL": os.environ["REDIS_URL"],
    }


CACHE_CONFIG = cache("article_cache_")
DATA_CACHE_CONFIG = cache("article_data_")
FILTER_STATE_CACHE_CONFIG = cache("article_filter_")
EXPLORE_FORM_DATA_CACHE_CONFIG = cache("article_explore_")


def current_db():
    from flask_login import current_user

    return f"'{current_user.username}' AS db"


JINJA_CONTEXT_ADDONS = {"db": current_db}
