"""Superset with a database per tenant: the whole configuration of the demonstration.

Everything secret comes from the environment. The tenants do too, as the article has them:
``DB_UK_HOST`` and ``DB_UK_PASS`` make the tenant ``uk``.
"""

import os

from tenantry.integrations.superset import configure

SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = os.environ["SUPERSET_METADATA_URL"]

GUEST_TOKEN_JWT_SECRET = os.environ["SUPERSET_GUEST_SECRET"]
GUEST_TOKEN_JWT_AUDIENCE = "superset"
GUEST_ROLE_NAME = "Guest"

FEATURE_FLAGS = {"ENABLE_TEMPLATE_PROCESSING": True, "DRILL_TO_DETAIL": True}

# Who may show Superset in a frame: the host application and nobody else. The names that
# superset.config has set by now are what this file would replace.
from superset.config import TALISMAN_CONFIG  # noqa: E402

TALISMAN_CONFIG["frame_options"] = None  # says SAMEORIGIN; frame-ancestors takes its place
TALISMAN_CONFIG["content_security_policy"]["frame-ancestors"] = [
    "'self'",
    os.environ.get("HOST_APPLICATION_URL", "http://localhost:5000"),
]

# Without a Redis, caches in files: each store that is set here is wrapped.
if cache_dir := os.environ.get("SUPERSET_CACHE_DIR"):
    DATA_CACHE_CONFIG = {
        "CACHE_TYPE": "FileSystemCache",
        "CACHE_DIR": cache_dir,
        "CACHE_THRESHOLD": 0,
        "CACHE_DEFAULT_TIMEOUT": 3600,
    }

# Staff accounts read the tenant `hq`; guests the tenant of their token, and nothing else.
configure(globals(), reference="hq", redis_url=os.environ.get("REDIS_URL"))
