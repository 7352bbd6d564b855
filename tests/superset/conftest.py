"""Real Supersets, each started once for the run, with three regions and a head office."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from examples.superset.environment import NEWEST, RELEASE, superset_python
from examples.superset.provision import Provisioned, Rest, provision
from examples.superset.regions import ROWS, Region, make_postgresql
from examples.superset.stack import Superset, running_superset
from tenantry import Placement, Tenant, use
from tenantry.integrations.superset import Report, check, mint
from tenantry.testing.address import ServerAddress
from tenantry.testing.process import free_port

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "superset" / "superset_config.py"
LOGS = HERE.parents[1] / ".build" / "superset-logs"
ACCOUNTS = ("admin:Admin", "embedder:Embedder", "uk:Alpha")
TENANTS = ("uk", "aus", "eu")
HOST_PORT = free_port()

# They need an environment of 700 MB and minutes, so only `make test-superset` collects them.
collect_ignore_glob = [] if os.environ.get("TENANTRY_SUPERSET") else ["test_*.py"]
if RELEASE != NEWEST:
    # An older release: that it starts, every guest's route, templates, tokens and commands.
    collect_ignore_glob += [f"test_{name}.py" for name in ("browser", "fleet", "mysql", "overhead")]


@dataclass(frozen=True)
class Running:
    """A Superset with a dashboard in it."""

    superset: Superset
    made: Provisioned
    token: Callable[[str], str]

    @property
    def url(self) -> str:
        return self.superset.url

    def rest(self, account: str = "admin") -> Rest:
        return Rest(self.url, account, self.superset.passwords[account])

    def minted(self, **claims: Any) -> str:
        """A token with these claims in the place of good ones, signed with the right secret."""
        good = jwt.decode(self.token("uk"), options={"verify_signature": False})
        changed = {key: value for key, value in {**good, **claims}.items() if value is not ...}
        return jwt.encode(changed, self.superset.guest_secret, algorithm="HS256")

    def chart_data(
        self,
        token: str | None,
        chart: str = "sales table",
        client: httpx.Client | None = None,
        **body: Any,
    ) -> httpx.Response:
        """Ask for a chart's rows as a guest, as the embedded page does."""
        asked = {**self.chart_body("sales", chart), **body}
        headers = {"X-GuestToken": token} if token is not None else {}
        url = f"{self.url}/api/v1/chart/data"
        if client is not None:
            return client.post(url, json=asked, headers=headers)
        return httpx.post(url, json=asked, headers=headers, timeout=60)

    def chart_body(self, name: str, chart: str | None = None) -> dict[str, Any]:
        """What the page asks for the rows of the dataset *name*, in its table or another chart."""
        dataset = self.made.datasets[name]
        return {
            "datasource": {"id": dataset, "type": "table"},
            "force": False,
            "queries": [
                {"columns": ["region", "product", "amount"], "metrics": [], "row_limit": 1000}
            ],
            "form_data": {
                "datasource": f"{dataset}__table",
                "viz_type": "table",
                "slice_id": self.made.charts[chart or f"{name} table"],
                "dashboardId": self.made.dashboard,
            },
            "result_format": "json",
            "result_type": "full",
        }

    def sql_lab(self, sql: str) -> Any:
        """The rows that an administrator gets in SQL Lab."""
        asked = {
            "database_id": self.made.database,
            "sql": sql,
            "runAsync": False,
            "client_id": secrets.token_hex(5),  # a column of 11 characters
        }
        with self.rest() as rest:
            return rest("POST", "/api/v1/sqllab/execute/", json=asked)["data"]

    @contextmanager
    def with_schema(self, schema: str) -> Iterator[None]:
        """The dataset of sales names this schema."""
        dataset = f"/api/v1/dataset/{self.made.datasets['sales']}"
        with self.rest() as rest:
            rest("PUT", dataset, json={"schema": schema})
            try:
                yield
            finally:
                rest("PUT", dataset, json={"schema": None})

    def checked(self, **more: Any) -> Report:
        """All routes x three tenants x both orders x one browser x 8 threads."""
        return check(
            self.url,
            tenants=TENANTS,
            token=self.token,
            username="admin",
            password=self.superset.passwords["admin"],
            embedded=self.made.embedded,
            **{"rounds": 1, "owns": owns, **more},
        )


@contextmanager
def running(
    config: Path,
    environment: dict[str, str],
    tokens: Callable[[Superset, str], Callable[[str], str]],
    *,
    workers: bool = False,
    **provisioning: Any,
) -> Iterator[Running]:
    """A Superset with *config*, and what ``provision`` puts into it."""
    with running_superset(
        config,
        environment=environment,
        accounts=ACCOUNTS,
        workers=workers,
        log=LOGS / f"{config.stem.removesuffix('_config')}.log",
    ) as superset:
        with Rest(superset.url, "admin", superset.passwords["admin"]) as rest:
            made = provision(rest, **provisioning)
        yield Running(superset, made, tokens(superset, made.embedded))


def ran_inside(running: Running, script: Path, asked: Any) -> Any:
    """What *script* prints, run in the environment and with the configuration of a Superset."""
    done = subprocess.run(
        [str(superset_python()), str(script)],
        input=json.dumps(asked),
        env=dict(running.superset.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def owns(tenant_id: str, rows: tuple[tuple[str, ...], ...]) -> bool:
    """Whether no row names another region than the tenant's."""
    text = str(rows)
    others = [name for name in ROWS if name != tenant_id]
    return bool(rows) and not any(f"'{o}'" in text or f"{o}-product" in text for o in others)


def regions_in(answer: httpx.Response) -> set[str]:
    """Whose rows an answer shows, whatever its form."""
    return {name for name in (*ROWS, "nz") if f"{name}-product" in answer.text}


def minted_by(superset: Superset, embedded: str) -> Callable[[str], str]:
    def token(tenant_id: str) -> str:
        with use(Tenant(tenant_id, Placement("any"))):
            return mint(
                embedded,
                secret=superset.guest_secret,
                person="alice",
                audience=superset.audience,
            )

    return token


def named_by(superset: Superset, embedded: str) -> Callable[[str], str]:
    """Tokens as the article has them: the user's name is the tenant."""
    own = minted_by(superset, embedded)

    def token(tenant_id: str) -> str:
        claims = jwt.decode(own(tenant_id), options={"verify_signature": False})
        claims["user"]["username"] = claims.pop("tenant")
        return jwt.encode(claims, superset.guest_secret, algorithm="HS256")

    return token


@pytest.fixture(scope="session")
def regions(postgresql: ServerAddress) -> dict[str, Region]:
    return make_postgresql(postgresql.host, postgresql.port, postgresql.user, postgresql.password)


@pytest.fixture(scope="session")
def redis_url(redis_server: ServerAddress) -> str:
    return redis_server.url().render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def variables(regions: dict[str, Region], redis_url: str) -> dict[str, str]:
    found = {"REDIS_URL": redis_url}
    for region in regions.values():
        found |= region.variables()
    return found


@pytest.fixture(scope="session")
def ours(variables: dict[str, str]) -> Iterator[Running]:
    """The example's configuration, which is the one in the documentation."""
    environment = {**variables, "HOST_APPLICATION_URL": f"http://localhost:{HOST_PORT}"}
    with running(EXAMPLE, environment, minted_by) as ours:
        yield ours


@pytest.fixture(scope="session")
def article(variables: dict[str, str], regions: dict[str, Region]) -> Iterator[Running]:
    """The article's code, corrected so that it starts, over the same regions."""
    hq = regions["hq"]
    with running(
        HERE / "article_config.py",
        variables,
        named_by,
        address=f"postgresql://{hq.login}:{hq.password}@{hq.host}:{hq.port}/{hq.database}",
        without={"{{ tenant() }}": "{{ current_username() }}"},
    ) as article:
        yield article
