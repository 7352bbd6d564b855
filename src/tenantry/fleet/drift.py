"""How a place differs from what is expected, in words and as the statements that mend it.

Everything missing from an empty place is one way to make a copy: :func:`creation` is that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..backends import Backend
from .fingerprint import Item, Shape

__all__ = ["Creation", "Difference", "creation", "differences"]

#: The order in which objects can be made.
_ORDER = (
    "extension",
    "type",
    "sequence",
    "function",
    "procedure",
    "table",
    "column",
    "constraint",
    "index",
    "late function",
    "foreign key",
    "view",
    "late index",
    "trigger",
    "policy",
    "grant",
    "comment",
    "event",
    "other",
)
#: What changes or hides rows, or is made of them: made when the rows are there.
_AFTER_ROWS = ("foreign key", "view", "late index", "trigger", "policy", "grant", "comment")
_COLUMN = re.compile(
    r"(?P<type>.*?)(?P<collate> COLLATE \S+)?(?P<generated> GENERATED .*?)?"
    r"(?: DEFAULT (?P<default>.*?))?(?P<not_null> NOT NULL)?"
)
_SECURITY = " ROW LEVEL SECURITY"
_NOT_VALID = " NOT VALID"
#: Ends of statements that come after the rows, which they hide or would refuse.
_LATE = (_SECURITY, _NOT_VALID)
#: What ``pg_trigger.tgenabled`` says where a trigger does not fire as usual.
_ENABLED = {"D": "DISABLE TRIGGER", "R": "ENABLE REPLICA TRIGGER", "A": "ENABLE ALWAYS TRIGGER"}
_OWNED = re.compile(r"(.*?) OWNED BY (.+)", re.DOTALL)
#: What belongs to a whole, which its *table* names.
_PARTS = ("column", "constraint", "index", "trigger", "policy", "grant", "comment", "other")
_WHOLES = ("table", "view", "materialized view", "sequence")


@dataclass(frozen=True)
class Difference:
    """One object that is ``missing``, ``different`` or ``extra``.

    *repair* are statements for a connection in the place. Those of *extra* objects drop them,
    and what is in them.
    """

    what: str
    item: Item
    words: str
    repair: tuple[str, ...] = ()


def differences(expected: Shape, actual: Shape, backend: Backend) -> list[Difference]:
    """How *actual* differs from *expected*, in the order of mending."""
    found = []
    for key, wanted in sorted(expected.items.items(), key=lambda each: _place_in_order(each[1])):
        item = actual.items.get(key)
        label = _label(wanted)
        if item is None:
            repair = tuple(_make(wanted, expected, backend))
            if _comes_with_table(wanted, backend) and (
                ("table", wanted.table, wanted.table) not in actual.items
            ):
                continue
            found.append(Difference("missing", wanted, f"{label} is missing", repair))
        elif item != wanted:
            words = f"{label} is {item.definition!r} and should be {wanted.definition!r}"
            repair = tuple(_change(item, wanted, expected, backend))
            found.append(Difference("different", wanted, words, repair))
    extra = [item for key, item in actual.items.items() if key not in expected.items]
    gone = {item.table for item in extra if item.kind in _WHOLES}
    for item in sorted(extra, key=_place_in_order, reverse=True):
        if (item.kind in _PARTS and item.table in gone) or _owner(item) in gone:
            continue
        drop = tuple(_drop(item, actual, backend))
        found.append(Difference("extra", item, f"{_label(item)} should not be there", drop))
    return found


@dataclass(frozen=True)
class Creation:
    """The statements that make a place before its rows come, and after.

    *unknown* are objects that can be compared and not made.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    unknown: tuple[str, ...]


def creation(shape: Shape, backend: Backend, *, same_name: bool = True) -> Creation:
    """What makes *shape* in an empty place, whose schema is or is not named as the first one's.

    A text in it that names the schema may mean just that one: in another it is unknown, as an
    extension is, which a database has once.
    """
    before: list[str] = []
    after: list[str] = []
    unmade = set()
    for difference in differences(shape, Shape({}), backend):
        if not difference.repair and backend.kind != "sqlite":
            unmade.add(difference.item.key)
        for statement in difference.repair:
            late = _kind(difference.item) in _AFTER_ROWS or statement.endswith(_LATE)
            (after if late else before).append(statement)
    unknown = [
        _label(item)
        for key, item in shape.items.items()
        if key in unmade or ((item.verbatim or item.kind == "extension") and not same_name)
    ]
    return Creation(tuple(before), tuple(after), tuple(unknown))


def _comes_with_table(item: Item, backend: Backend) -> bool:
    if item.kind != "constraint":
        return item.kind == "column"
    if backend.kind == "postgresql":
        return _kind(item) == "constraint" and not item.definition.endswith(_NOT_VALID)
    return item.name == "PRIMARY"  # an AUTO_INCREMENT column has to be a key from the beginning


def _place_in_order(item: Item) -> tuple[int, int, str, str]:
    return (_ORDER.index(_kind(item)), item.position, item.table, item.name)


def _kind(item: Item) -> str:
    # Foreign keys need the keys and indexes of other tables, and MySQL makes an index for each
    # that has none. Some functions need tables, some indexes are of materialized views; and views
    # of both kinds need each other.
    late = {"constraint": "foreign key", "function": "late function", "index": "late index"}
    if item.position > 0 and item.kind in late:
        return late[item.kind]
    return item.kind.removeprefix("materialized ")


def _label(item: Item) -> str:
    if item.kind in ("column", "constraint", "index", "trigger", "policy", "grant") and item.table:
        return f"{item.kind} {item.name} of {item.table}"
    return item.name if item.kind == "other" else f"{item.kind} {item.name}"


def _make(item: Item, expected: Shape, backend: Backend) -> Sequence[str]:
    q = backend.quote
    table, name, definition = q(item.table), q(item.name), item.verbatim or item.definition
    kind = item.kind
    if kind == "table":
        return _make_table(item, expected, backend)
    if backend.kind == "sqlite":
        # A table's own parts cannot be added to it there; what has SQL of its own can.
        return [definition] if kind in ("index", "view", "trigger") else []
    if kind == "column":
        return [f"ALTER TABLE {table} ADD COLUMN {name} {definition}"]
    if kind == "constraint":
        if name == "`PRIMARY`":
            return [f"ALTER TABLE {table} ADD {definition}"]
        return [f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"]
    if kind == "index":
        if backend.kind != "mysql":
            return [definition.removesuffix(" -- not valid")]
        words, _, columns = definition.partition(" (")
        unique = "UNIQUE " if words == "UNIQUE" else ""
        return [f"CREATE {unique}INDEX {name} ON {table} ({columns}"]
    if kind == "view":
        return [f"CREATE OR REPLACE VIEW {name} AS {definition.rstrip(';')}"]
    if kind == "materialized view":
        return [f"CREATE MATERIALIZED VIEW {name} AS {definition.rstrip(';')}"]
    if kind in ("function", "trigger"):
        if backend.kind != "postgresql":
            return []
        made, _, state = definition.partition(" -- enabled ")
        return [made, f"ALTER TABLE {table} {_ENABLED[state]} {name}"] if state else [made]
    if kind == "sequence":
        owned = _OWNED.fullmatch(definition)
        return [f"CREATE SEQUENCE {name} {owned[1] if owned else definition}"]
    if kind == "type":
        made = "DOMAIN" if _is_domain(item) else "TYPE"
        return [f"CREATE {made} {name} AS {definition.removeprefix('ROW ')}"]
    if kind == "policy":
        return [f"CREATE POLICY {name} ON {table} {definition}"]
    if kind == "grant":
        grantee, privilege = item.name.rsplit(" ", 1)
        if not item.table:
            return [_on_schema(f"GRANT {privilege}", f"TO {grantee}{definition}")]
        word = "SEQUENCE " if privilege == "USAGE" else ""
        return [f"GRANT {privilege} ON {word}{table} TO {grantee}{definition}"]
    if kind == "extension":
        return [f"CREATE EXTENSION IF NOT EXISTS {name} {definition}"]
    if kind in ("other", "procedure", "event"):
        return []
    text = definition.replace("'", "''")
    return [f"COMMENT ON {_commented(item, expected, backend)} IS '{text}'"]


def _on_schema(what: str, whom: str) -> str:
    """Grant or revoke on the place's own schema, which is the first on the path."""
    whom = whom.replace("'", "''")
    words = f"'{what} ON SCHEMA ' || quote_ident(current_schema()) || ' {whom}'"
    return f"DO $do$ BEGIN EXECUTE {words}; END $do$"


def _commented(item: Item, shape: Shape, backend: Backend) -> str:
    q = backend.quote
    if item.name != item.table and not item.name.startswith(f"{item.table}."):
        return item.name
    column = item.name.removeprefix(item.table).removeprefix(".")
    if column:
        return f"COLUMN {q(item.table)}.{q(column)}"
    views = ("view", "materialized view")
    found = (kind for kind in views if (kind, item.table, item.table) in shape.items)
    return f"{next(found, 'table').upper()} {q(item.table)}"


def _make_table(item: Item, expected: Shape, backend: Backend) -> list[str]:
    if backend.kind == "sqlite":
        return []
    own = (
        each
        for each in expected.items.values()
        if each.table == item.table and _comes_with_table(each, backend)
    )
    parts = []
    for each in sorted(own, key=_place_in_order):
        name = f"{backend.quote(each.name)} "
        if each.kind == "constraint":
            name = f"CONSTRAINT {name}" if backend.kind == "postgresql" else ""
        parts.append(name + (each.verbatim or each.definition))
    options = f" {item.definition}" if backend.kind == "mysql" else ""
    statements = [f"CREATE TABLE {backend.quote(item.name)} ({', '.join(parts)}){options}"]
    return [*statements, *_ownership(item.name, expected, backend), *_security(item, None, backend)]


def _ownership(table: str, expected: Shape, backend: Backend) -> list[str]:
    """Sequences are made before the table whose column's they are."""
    return [
        f"ALTER SEQUENCE {backend.quote(item.name)} OWNED BY {owned[2]}"
        for item in expected.items.values()
        if _owner(item) == table and (owned := _OWNED.fullmatch(item.definition)) is not None
    ]


def _owner(item: Item) -> str | None:
    """The table that a sequence goes with, if it is a column's."""
    owned = _OWNED.fullmatch(item.definition) if item.kind == "sequence" else None
    if owned is None:
        return None
    found = re.match(r'"((?:[^"]|"")+)"|[^.]+', owned[2])
    assert found is not None
    return found[1].replace('""', '"') if found[1] else found[0]


def _security(item: Item, before: Item | None, backend: Backend) -> list[str]:
    if backend.kind != "postgresql":
        return []
    statements = []
    for words, clause in ((" row security", "ENABLE"), (" forced", "FORCE")):
        wanted, now = words in item.definition, before is not None and words in before.definition
        if wanted != now:
            verb = clause if wanted else {"ENABLE": "DISABLE", "FORCE": "NO FORCE"}[clause]
            statements.append(f"ALTER TABLE {backend.quote(item.name)} {verb}{_SECURITY}")
    return statements


def _change(item: Item, wanted: Item, expected: Shape, backend: Backend) -> Sequence[str]:
    q = backend.quote
    table, name = q(wanted.table), q(wanted.name)
    if wanted.kind == "table":
        return _security(wanted, item, backend)
    if backend.kind == "mysql" and wanted.kind == "column":
        return [f"ALTER TABLE {table} MODIFY COLUMN {name} {wanted.definition}"]
    if wanted.kind == "column":
        return _change_column(item, wanted, backend) if backend.kind == "postgresql" else []
    if wanted.kind == "view" or wanted.kind == "function" or wanted.kind == "comment":
        return _make(wanted, expected, backend)
    if wanted.kind == "sequence":
        return [f"ALTER SEQUENCE {name} {wanted.definition}"]
    if wanted.kind == "extension":
        version, _, schema = wanted.definition.removeprefix("VERSION ").partition(" SCHEMA ")
        return [f"ALTER EXTENSION {name} UPDATE TO {version}"] if not schema else []
    made = _make(wanted, expected, backend)
    return [*_drop(item, expected, backend), *made] if made else []


def _change_column(item: Item, wanted: Item, backend: Backend) -> list[str]:
    is_, shall = _COLUMN.fullmatch(item.definition), _COLUMN.fullmatch(wanted.definition)
    if is_ is None or shall is None or is_["generated"] != shall["generated"]:
        return []
    column = backend.quote(wanted.name)
    alter = f"ALTER TABLE {backend.quote(wanted.table)} ALTER COLUMN {column}"
    statements = []
    if (is_["type"], is_["collate"]) != (shall["type"], shall["collate"]):
        type_ = shall["type"] + (shall["collate"] or "")
        # Explicit casts cut silently; an assignment refuses what does not fit.
        statements.append(f"{alter} TYPE {type_}")
    if is_["default"] != shall["default"]:
        default = shall["default"]
        statements.append(f"{alter} SET DEFAULT {default}" if default else f"{alter} DROP DEFAULT")
    if is_["not_null"] != shall["not_null"]:
        statements.append(f"{alter} {'SET' if shall['not_null'] else 'DROP'} NOT NULL")
    return statements


def _drop(item: Item, shape: Shape, backend: Backend) -> Sequence[str]:
    q = backend.quote
    table, name, kind = q(item.table), q(item.name), item.kind
    if kind == "column":
        return [f"ALTER TABLE {table} DROP COLUMN {name}"]
    if backend.kind == "sqlite" and kind == "constraint":
        return []
    if kind == "constraint":
        if backend.kind == "mysql":
            words = {"FOREIGN": "FOREIGN KEY", "CHECK": "CONSTRAINT"}
            word = words.get(item.definition.split(" ")[0])
            if word is None:
                return [f"ALTER TABLE {table} DROP PRIMARY KEY"]
            return [f"ALTER TABLE {table} DROP {word} {name}"]
        return [f"ALTER TABLE {table} DROP CONSTRAINT {name}"]
    if kind == "index" and backend.kind == "mysql":
        return [f"DROP INDEX {name} ON {table}"]
    if kind in ("trigger", "policy") and backend.kind == "postgresql":
        return [f"DROP {kind.upper()} {name} ON {table}"]
    if kind == "grant":
        grantee, privilege = item.name.rsplit(" ", 1)
        if not item.table:
            return [_on_schema(f"REVOKE {privilege}", f"FROM {grantee}")]
        return [f"REVOKE {privilege} ON {table} FROM {grantee}"]
    if kind == "comment":
        return [f"COMMENT ON {_commented(item, shape, backend)} IS NULL"]
    if kind == "other":
        return []
    if kind == "function":
        if backend.kind == "mysql":
            return [f"DROP FUNCTION {name}"]
        return [f"DROP ROUTINE {item.name}"]
    return [f"DROP {'DOMAIN' if _is_domain(item) else kind.upper()} {name}"]


def _is_domain(item: Item) -> bool:
    return item.kind == "type" and not item.definition.startswith(("ENUM (", "ROW ("))
