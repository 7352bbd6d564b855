"""django-tenants beside ``benchmarks/fleet.py``: the same revision over schemas, best executor.

It gets an environment of its own below ``.build``, made at first use; where it does not install,
the contest is left out and that is said. Schemas are copied from a first one, which is quicker
than letting it create them; only its ``migrate_schemas`` is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tenantry.testing.address import ServerAddress
from tenantry.testing.postgresql import running_postgresql

HOME = Path(__file__).parents[1] / ".build" / "venv-django"
PROCESSES = 4

FILES = {
    "manage.py": """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "settings.py": """
import os
SECRET_KEY = "x"
DATABASES = {"default": {
    "ENGINE": "django_tenants.postgresql_backend", "NAME": os.environ["PGDATABASE"],
    "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"],
    "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"]}}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
SHARED_APPS = ["django_tenants", "django.contrib.contenttypes", "customers"]
TENANT_APPS = ["shop"]
INSTALLED_APPS = SHARED_APPS + TENANT_APPS
TENANT_MODEL = "customers.Client"
TENANT_DOMAIN_MODEL = "customers.Domain"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
TENANT_MULTIPROCESSING_MAX_PROCESSES = 4
USE_TZ = True
""",
    "customers/__init__.py": "",
    "customers/models.py": """
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin
class Client(TenantMixin):
    auto_create_schema = True
class Domain(DomainMixin):
    pass
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models
class Thing(models.Model):
    name = models.CharField(max_length=80)
""",
}
REVISION = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.AddField("thing", "colour",
                  models.CharField(max_length=20, null=True, db_index=True))]
"""
FIRST = """
from customers.models import Client
Client(schema_name="t0000").save()
"""
COPY = """\
DO $$ DECLARE s text; BEGIN FOR n IN 1..{last} LOOP
  s := 't' || lpad(n::text, 4, '0');
  EXECUTE format('CREATE SCHEMA %I', s);
  EXECUTE format('CREATE TABLE %I.shop_thing (LIKE t0000.shop_thing INCLUDING ALL)', s);
  EXECUTE format('CREATE TABLE %I.django_migrations (LIKE t0000.django_migrations INCLUDING ALL)',
                 s);
  EXECUTE format('INSERT INTO %I.django_migrations OVERRIDING SYSTEM VALUE
                  SELECT id + 1000, app, name, applied FROM t0000.django_migrations', s);
  INSERT INTO customers_client (schema_name) VALUES (s);
END LOOP; END $$"""


def environment() -> Path | None:
    """The interpreter that has django-tenants; ``None`` if it does not install."""
    python = HOME / "bin" / "python"
    if python.exists():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", HOME], check=True, capture_output=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "django-tenants", "psycopg[binary]"],
            check=True,
            capture_output=True,
            timeout=600,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return python


def measure(address: ServerAddress, count: int) -> dict[str, float] | str:
    """Seconds for *count* schemas by executor, and for the run after it, with nothing to do."""
    python = environment()
    if python is None:
        return "django-tenants did not install here"
    folder = Path(tempfile.mkdtemp())
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    database = "django"
    address.execute(f"CREATE DATABASE {database}")
    variables = {
        **os.environ,
        "PGHOST": address.host,
        "PGPORT": str(address.port),
        "PGUSER": address.user,
        "PGPASSWORD": address.password,
        "PGDATABASE": database,
    }

    def manage(*arguments: str, stdin: str | None = None) -> None:
        done = subprocess.run(
            [python, "manage.py", *arguments],
            cwd=folder,
            env=variables,
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-800:])

    manage("makemigrations", "customers", "shop")
    manage("migrate_schemas", "--shared")
    manage("shell", stdin=FIRST)
    address.execute(COPY.format(last=count - 1), database)
    (folder / "shop" / "migrations" / "0002_colour.py").write_text(REVISION)
    seconds = {}
    for executor in ("multiprocessing", "standard"):
        began = time.perf_counter()
        manage("migrate_schemas", "--tenant", f"--executor={executor}")
        seconds[executor] = time.perf_counter() - began
        began = time.perf_counter()
        manage("migrate_schemas", "--tenant", f"--executor={executor}")
        seconds[f"{executor}, nothing to do"] = time.perf_counter() - began
        address.execute(
            "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace "
            "WHERE nspname ~ '^t[0-9]' LOOP "
            "EXECUTE format('ALTER TABLE %I.shop_thing DROP COLUMN colour', s); "
            "EXECUTE format('DELETE FROM %I.django_migrations WHERE name = ''0002_colour''', s); "
            "END LOOP; END $$",
            database,
        )
    done = address.execute("SELECT count(*) FROM customers_client", database)
    assert done == [(count,)]
    address.execute(f"DROP DATABASE {database} WITH (FORCE)")
    return seconds


if __name__ == "__main__":
    with running_postgresql(settings={"fsync": "on", "full_page_writes": "on"}) as server:
        print(measure(server, int(sys.argv[1]) if len(sys.argv) > 1 else 100))
