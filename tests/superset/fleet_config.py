"""Everything the example's configuration is not: a table of tenants, asynchronous queries on a
Celery worker, caches in files, and settings of the user's own to compose with.
"""

# mypy: ignore-errors
# Written as Superset's users write theirs, and read by Superset, which is not installed here.

import os
from pathlib import Path
from urllib.parse import urlsplit

from superset.security import SupersetSecurityManager
from superset.tasks.types import FixedExecutor

from tenantry import Server
from tenantry.directory import TableDirectory
from tenantry.integrations.superset import configure

SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = os.environ["SUPERSET_METADATA_URL"]
GUEST_TOKEN_JWT_SECRET = os.environ["SUPERSET_GUEST_SECRET"]
GUEST_TOKEN_JWT_AUDIENCE = "superset"
GUEST_ROLE_NAME = "Guest"
FEATURE_FLAGS = {
    "ENABLE_TEMPLATE_PROCESSING": True,
    "DRILL_TO_DETAIL": True,
    "GLOBAL_ASYNC_QUERIES": True,
    "THUMBNAILS": True,
}

redis = urlsplit(os.environ["REDIS_URL"])
GLOBAL_ASYNC_QUERIES_JWT_SECRET = os.environ["SUPERSET_ASYNC_SECRET"]
GLOBAL_ASYNC_QUERIES_POLLING_DELAY = 100
GLOBAL_ASYNC_QUERIES_CACHE_BACKEND = {
    "CACHE_TYPE": "RedisCache",
    "CACHE_REDIS_HOST": redis.hostname,
    "CACHE_REDIS_PORT": redis.port,
    "CACHE_REDIS_USER": redis.username or "",
    "CACHE_REDIS_PASSWORD": redis.password or "",
    "CACHE_REDIS_DB": 2,
}


class CeleryConfig:
    broker_url = os.environ["REDIS_URL"]
    result_backend = os.environ["REDIS_URL"]
    imports = ("superset.sql_lab", "superset.tasks.scheduler")
    task_default_queue = os.environ["CELERY_QUEUE"]


CELERY_CONFIG = CeleryConfig


def in_files(name):
    return {
        "CACHE_TYPE": "FileSystemCache",
        "CACHE_DIR": str(Path(os.environ["CACHES_IN"]) / name),
        "CACHE_THRESHOLD": 0,
        "CACHE_DEFAULT_TIMEOUT": 3600,
        "CACHE_KEY_PREFIX": "own_",
    }


CACHE_CONFIG = in_files("meta")
DATA_CACHE_CONFIG = in_files("data")
THUMBNAIL_CACHE_CONFIG = in_files("thumbnails")
# One account draws for everybody, so that a picture has one address for all who may see it.
THUMBNAIL_EXECUTORS = [FixedExecutor("admin")]


class OwnManager(SupersetSecurityManager):
    """A user's own, which ours extends."""


CUSTOM_SECURITY_MANAGER = OwnManager


def own_mutator(uri, params, username, security_manager, source):
    connect_args = {**params.get("connect_args", {}), "options": "-cbytea_output=escape"}
    return uri, {**params, "connect_args": connect_args}


DB_CONNECTION_MUTATOR = own_mutator


def own_app_mutator(app):
    @app.after_request
    def mark(response):
        response.headers["X-Own"] = "yes"
        return response


FLASK_APP_MUTATOR = own_app_mutator
JINJA_CONTEXT_ADDONS = {"own": lambda: "own"}

configure(
    globals(),
    directory=TableDirectory(os.environ["CONTROL_URL"]),
    servers={"fleet": Server.from_url("fleet", os.environ["FLEET_URL"])},
    reference="hq",
)
