"""Alembic's side of migrations: which steps, as SQL where they are plain, live where not.

The scripts are loaded and compiled once, in the thread that plans: ``op`` and ``context`` are
module globals in Alembic (``alembic/util/langhelpers.py``), so two threads in them would write
into each other's database.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect

from ..errors import ConfigurationError, MigrationError
from ..routing.statements import ends_transaction
from ..tenant import State
from .plan import Plan, Segment, Step
from .replay import Sort, sort_of
from .runner import describe

if TYPE_CHECKING:
    from ..tenancy import Tenancy
    from .access import Place

__all__ = ["Scripts", "check_version_table", "new_revision"]

#: Alembic's proxies are module globals: one thread at a time.
ALEMBIC_LOCK = threading.RLock()

# Words of a revision that asks where it runs: what it does offline says nothing about online.
_ASKS = re.compile(r"\b(get_bind|is_offline_mode|as_sql|get_context\(\)\.(connection|bind))\b")
# What Alembic writes around a revision, and what a revision may write in the same sense.
_MARK = re.compile(
    r"(?:(?P<begin>BEGIN|START\s+TRANSACTION)|COMMIT|END)(?:\s+(?:WORK|TRANSACTION))?",
    re.IGNORECASE,
)
# "+1", "ae10-2", "branch@+1": so many steps from somewhere, or from where a tenant stands.
_RELATIVE = re.compile(r"(?P<to>.*)[+-]\d+")
_GOES_ROUND = re.compile(r"cursor|driver_connection|dbapi_connection|create_engine")
_MINE = ("script", "fn", "as_sql", "starting_rev", "destination_rev", "output_buffer", "tag")


class NeedsConnectionError(BaseException):
    """A revision asked for its connection; no revision's ``except Exception`` may catch this."""


class _Watching(EnvironmentContext):
    def is_offline_mode(self) -> bool:
        raise NeedsConnectionError("it asks whether it runs offline")


class Scripts:
    """A project's ``alembic.ini``, ``env.py`` and revisions, read once.

    *config* is the path of ``alembic.ini``, or of a folder of revisions (Flask-Migrate's
    ``migrations``). *run_env* runs ``env.py`` once to learn its settings (version table,
    metadata); it connects to nothing.

    Raises:
        ConfigurationError: There are no such scripts, or ``env.py`` fails.
    """

    def __init__(self, config: str | Path, *, run_env: bool = True) -> None:
        self.path = Path(config).resolve()
        self.config = load_config(self.path)
        try:
            with ALEMBIC_LOCK:
                self.directory = ScriptDirectory.from_config(self.config)
                self.directory.get_heads()
        except CommandError as error:
            raise ConfigurationError(f"{self.path}: {error}") from None
        except Exception as error:
            raise ConfigurationError(
                f"a revision in {self.path.parent} cannot be loaded: {describe(error)}"
            ) from error
        self.options: dict[str, Any] = self._learn() if run_env else {}
        self._plans: dict[tuple[Any, ...], Plan] = {}

    @property
    def version_table(self) -> str:
        """The table that says where a tenant stands."""
        return str(self.options.get("version_table", "alembic_version"))

    @property
    def metadata(self) -> Any:
        """The ``target_metadata`` of ``env.py``."""
        return self.options.get("target_metadata")

    def heads(self, target: str = "heads") -> tuple[str, ...]:
        """The revisions that *target* names."""
        try:
            found = self.directory.get_revisions(target)
        except CommandError as error:
            raise ConfigurationError(f"{error}; `alembic history` lists the revisions") from None
        return tuple(sorted(str(each.revision) for each in found))

    def target(self, asked: str | None, branch: str = "tenant") -> str:
        """What is migrated to: *asked*, else the head of *branch* if there is one, else heads.

        Raises:
            ConfigurationError: No revision is called what is *asked*.
        """
        if asked:
            relative = _RELATIVE.fullmatch(asked)
            try:
                self.heads(asked)
            except ConfigurationError:
                if relative is None:
                    raise
                if relative["to"]:
                    self.heads(relative["to"].removesuffix("@"))
            return asked
        return f"{branch}@head" if branch in self._branches else "heads"

    @cached_property
    def _branches(self) -> set[str]:
        return {label for each in self.directory.walk_revisions() for label in each.branch_labels}

    def plan(
        self, heads: Sequence[str], target: str, dialect: Dialect, *, downgrade: bool = False
    ) -> Plan:
        """The steps from *heads* to *target* for servers of *dialect*; compiled once.

        Raises:
            MigrationError: The scripts do not know *heads*, or do not lead to *target*.
        """
        before = tuple(sorted(heads))
        version = getattr(dialect, "server_version_info", None)
        key = (before, target, downgrade, dialect.name, getattr(dialect, "is_mariadb", 0), version)
        with ALEMBIC_LOCK:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = self._make_plan(before, target, dialect, downgrade)
            return plan

    def run_online(self, connection: Connection, step: Step, *, ended: Callable[..., None]) -> None:
        """Run *step* on *connection*, which is in its tenant's place; Alembic commits.

        *ended* is called when all of it is sent, version row included, and not yet committed.
        One thread of a process at a time.
        """
        with ALEMBIC_LOCK:
            found = self._find(step)
            options = self._common()
            # SQLite has transactional DDL as long as BEGIN is sent, and the fleet sends it.
            if connection.dialect.name == "sqlite":
                options["transactional_ddl"] = True
            environment = EnvironmentContext(
                self.config, self.directory, fn=lambda *_: [found], as_sql=False
            )
            with environment:
                options["on_version_apply"] = [*options.get("on_version_apply", ()), ended]
                environment.configure(
                    connection=connection, transaction_per_migration=True, **options
                )
                with environment.begin_transaction():
                    environment.run_migrations()

    def goes_round(self, step: Step) -> bool:
        """Whether a live *step* may write what SQLAlchemy's connection does not see."""
        path = self._find(step).revision.path
        return _GOES_ROUND.search(Path(path).read_text(encoding="utf-8")) is not None

    # Planning -------------------------------------------------------------------------------

    def _make_plan(
        self, before: tuple[str, ...], target: str, dialect: Dialect, downgrade: bool
    ) -> Plan:
        try:
            found = (
                self.directory._downgrade_revs(target, before)  # type: ignore[arg-type]
                if downgrade
                else self.directory._upgrade_revs(target, before)  # type: ignore[arg-type]
            )
        except CommandError as error:
            raise MigrationError(
                f"there is no way from {', '.join(before) or 'base'} to {target}: {error}"
            ) from None
        steps = []
        heads = before
        for step in found:
            assert isinstance(step, RevisionStep)
            made = self._compile(step, heads, dialect)
            steps.append(made)
            heads = made.after
        return Plan(before, heads, tuple(steps))

    def _compile(self, step: RevisionStep, before: tuple[str, ...], dialect: Dialect) -> Step:
        revision = step.revision
        described: dict[str, Any] = {
            "revision": revision.revision,
            "before": before,
            "is_upgrade": step.is_upgrade,
            "title": revision.doc or "",
        }
        real = step.migration_fn
        try:
            # The version row alone: where the step leads, whether or not it can be compiled.
            step.migration_fn = _nothing
            _, after = self._offline(step, before, dialect)
        finally:
            step.migration_fn = real
        why = self._asks(revision.path)
        if not why:
            try:
                chunks, _ = self._offline(step, before, dialect)
                again, _ = self._offline(step, before, dialect)
                if chunks != again:
                    why = "its SQL differs from one compilation to the next"
                elif any(_ends_transaction(each, dialect) for each in chunks):
                    why = "it ends its transaction by itself"
                else:
                    segments = _segments(chunks, self.version_table)
                    return Step(after=after, segments=segments, **described)
            except NeedsConnectionError as error:
                why = str(error)
            except Exception as error:
                why = f"it does not compile to SQL ({describe(error)})"
        return Step(after=after, why_online=why, **described)

    def _asks(self, path: str) -> str:
        if self.options.get("on_version_apply"):
            return "env.py has on_version_apply callbacks"
        found = _ASKS.search(Path(path).read_text(encoding="utf-8"))
        return f"it uses {found[1]}" if found else ""

    def _offline(
        self, step: RevisionStep, before: tuple[str, ...], dialect: Dialect
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The statements of a step, and the heads after it."""
        chunks: list[str] = []
        after: list[str] = []

        def applied(*, heads: set[str], **_: Any) -> None:
            after.extend(sorted(heads))

        class Sink(io.StringIO):
            def write(self, text: str) -> int:
                chunks.append(text)
                return len(text)

        with _Watching(self.config, self.directory, as_sql=True) as environment:
            context = MigrationContext.configure(
                dialect=dialect,
                environment_context=environment,
                opts={
                    **self._common(),
                    "script": self.directory,
                    "fn": lambda *_: [step],
                    "as_sql": True,
                    "literal_binds": True,
                    "output_buffer": Sink(),
                    "starting_rev": before or None,
                    "transaction_per_migration": True,
                    "on_version_apply": [applied],
                },
            )
            environment._migration_context = context
            context.impl.__class__ = _watched(type(context.impl))
            with Operations.context(context):
                context.run_migrations()
        return tuple(_statements(chunks)), tuple(after)

    def _find(self, step: Step) -> RevisionStep:
        script = self.directory.get_revision(step.revision)
        assert script is not None
        return RevisionStep(self.directory.revision_map, script, step.is_upgrade)

    def _common(self) -> dict[str, Any]:
        names = ("version_table", "version_table_schema", "version_table_pk", "target_metadata")
        options = {name: self.options[name] for name in names if name in self.options}
        options.update({k: v for k, v in self.options.items() if k in ("on_version_apply",)})
        return {name: value for name, value in options.items() if value is not None}

    # env.py ---------------------------------------------------------------------------------

    def _learn(self) -> dict[str, Any]:
        """What ``env.py`` configures, by running it offline with nothing to do."""
        learned: dict[str, Any] = {}

        def fn(_heads: Any, context: MigrationContext) -> list[Any]:
            learned.update(context.opts)
            return []

        self.config.attributes["tenantry"] = learned
        with ALEMBIC_LOCK, _without_logging():
            environment = EnvironmentContext(self.config, self.directory, fn=fn, as_sql=True)
            try:
                with environment:
                    self.directory.run_env()
            except Exception as error:
                raise ConfigurationError(
                    f"{self.path.parent}: env.py fails when it is run offline "
                    f"({describe(error)}); end it with `alembic_env.run(target_metadata)`"
                ) from error
            finally:
                self.config.attributes.pop("tenantry", None)
        return {key: value for key, value in learned.items() if key not in _MINE}


def check_version_table(place: Place, options: Mapping[str, Any]) -> None:
    """Refuse options of Alembic's by which tenants would share a version table.

    Raises:
        ConfigurationError: They name a schema for it.
    """
    schema = options.get("version_table_schema")
    own_default = place.server.kind == "postgresql" and place.schema is None
    if schema and not (own_default and schema == "public"):
        raise ConfigurationError(
            f"env.py names version_table_schema={schema!r}, where all tenants would share one "
            "version; leave it out: each tenant has a version table in its own place"
        )


def new_revision(
    tenancy: Tenancy,
    config: str | Path,
    message: str,
    *,
    tenant: str | None = None,
    autogenerate: bool = False,
    head: str = "head",
) -> list[str]:
    """Write a new revision, and say which files. *tenant* is the one to compare with.

    ``env.py`` has to end with ``alembic_env.run(target_metadata)`` for *autogenerate*; without
    *tenant* the first ready one is the reference.

    Raises:
        ConfigurationError: There is no tenant to compare with, or Alembic refuses.
    """
    settings = load_config(Path(config).resolve())
    settings.attributes["tenantry_tenancy"] = tenancy
    if autogenerate:
        ready = [each.id for each in tenancy.tenants() if each.state is State.READY]
        if tenant is None and not ready:
            raise ConfigurationError("there is no ready tenant to compare with; create one")
        settings.attributes["tenantry_tenant"] = tenant or ready[0]
    try:
        with ALEMBIC_LOCK, _without_logging():
            made = command.revision(settings, message, autogenerate=autogenerate, head=head)
    except CommandError as error:
        raise ConfigurationError(str(error)) from None
    scripts = made if isinstance(made, list) else [made]
    return [str(each.path) for each in scripts if each is not None]


def load_config(path: Path) -> Config:
    """Alembic's Config from an ``alembic.ini`` or the folder of revisions that holds one.

    Raises:
        ConfigurationError: There is none.
    """
    file = path / "alembic.ini" if path.is_dir() else path
    if not file.is_file():
        raise ConfigurationError(
            f"there is no {file}; name the project's alembic.ini with --config or as `alembic` "
            "under [tool.tenantry] in pyproject.toml"
        )
    config = Config(str(file), output_buffer=io.StringIO(), stdout=io.StringIO())
    if not config.get_main_option("script_location"):
        # Flask-Migrate leaves it out and says it in its own commands.
        config.set_main_option("script_location", str(file.parent).replace("%", "%%"))
    # Alembic's template leaves "driver://user:pass@localhost/dbname" to be filled in.
    if (config.get_main_option("sqlalchemy.url") or "driver:").startswith("driver:"):
        config.set_main_option("sqlalchemy.url", "sqlite://")  # offline, for its name only
    return config


def offline_dialect(connection: Connection) -> Dialect:
    """A dialect that knows the server of *connection*, and writes percent signs as they are."""
    kind: Callable[..., Dialect] = type(connection.dialect)
    dialect = kind(paramstyle="named", dbapi=connection.dialect.dbapi)
    dialect.initialize(connection)
    if connection.in_transaction():
        connection.rollback()
    return dialect


@cache
def _watched(kind: type) -> type:
    def bind(_self: Any) -> Any:
        raise NeedsConnectionError("it uses its connection")

    return type(kind.__name__, (kind,), {"bind": property(bind), "__dialect__": "tenantry"})


def _nothing(**_: Any) -> None:
    """What a step does when only its version row is wanted."""


def _statements(chunks: Sequence[str]) -> Iterator[str]:
    for chunk in chunks:
        text = chunk.strip()
        while text.startswith("--"):
            text = text.partition("\n")[2].strip()
        text = text.rstrip(";").rstrip()
        if text:
            yield text


def _ends_transaction(statement: str, dialect: Dialect) -> bool:
    """Whether there is more than a mark in *statement* that begins or ends a transaction."""
    if _MARK.fullmatch(statement):
        return False
    if dialect.name == "postgresql":
        return ends_transaction(statement)
    word, sort = sort_of(statement, commits_ddl=False)  # one command, maybe with BEGIN and END
    return sort is Sort.COMMIT or word in ("ROLLBACK", "ABORT")


def _segments(statements: Sequence[str], version_table: str) -> tuple[Segment, ...]:
    """Statements cut at the marks of transactions that Alembic writes."""
    create = re.compile(rf"CREATE TABLE (?=\S*{re.escape(version_table)}\b)")
    segments: list[Segment] = []
    inside: list[str] = []
    marks = [_MARK.fullmatch(each) for each in statements]
    transactional = not any(mark and mark["begin"] for mark in marks)
    for statement, mark in zip(statements, marks, strict=True):
        if mark is not None:
            if inside:
                segments.append(Segment(tuple(inside), transactional))
            inside, transactional = [], mark["begin"] is not None
        else:
            # The table outlives a downgrade to base.
            inside.append(create.sub("CREATE TABLE IF NOT EXISTS ", statement, count=1))
    if inside:
        segments.append(Segment(tuple(inside), transactional))
    return tuple(segments)


@contextmanager
def _without_logging() -> Iterator[None]:
    """Keep ``env.py``'s ``fileConfig`` from silencing the loggers of the application."""
    import logging.config

    real: Callable[..., Any] = logging.config.fileConfig

    def ignored(*_args: Any, **_options: Any) -> None:
        return

    logging.config.fileConfig = ignored
    try:
        yield
    finally:
        logging.config.fileConfig = real
