"""What a statement may leave on its session, and what it must not try.

Answered from the statement alone, once for each; the doubt goes to safety.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.functions import Function, FunctionElement
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import SelectBase

__all__ = [
    "commands",
    "ends_transaction",
    "keeps_session_state",
    "leaves_nothing",
    "text_leaves_nothing",
]

#: Functions of which it is known that they leave nothing on a session.
_HARMLESS = frozenset(
    # Words in one string read better than two hundred quotes.
    """
    abs any array_agg avg bool_and bool_or cast ceil ceiling char_length character_length coalesce
    concat count cume_dist current_database current_date current_schema current_time
    current_timestamp date date_part date_trunc day dense_rank every exists extract first_value
    floor greatest group_concat grouping ifnull iif in instr json_agg json_build_object
    json_extract json_object jsonb_agg jsonb_build_object lag last_value lead least length
    localtime localtimestamp lower lpad ltrim max min mod month now ntile nullif numeric over
    percent_rank power random rank replace round row row_number rpad rtrim session_user sign
    sqrt strftime string_agg substr substring sum sysdate to_char to_date trim trunc typeof
    unnest upper user values varchar version year from and or not on as when then else using
    partition by filter where select union all distinct limit offset between like
    """.split()  # noqa: SIM905
)
_STARTS_HARMLESS = re.compile(
    r"\s*(?:select|insert|update|delete|with|values|savepoint|release\s+savepoint|rollback\s+to)\b",
    re.IGNORECASE,
)
# Whatever stands before a parenthesis: a name in any spelling, quoted, with escapes or accents.
_CALL = re.compile(r"([^\s(),;=<>+\-*/%|!&^~?:']+)\s*\(")
# Several statements, MySQL's variables, comments, and SELECT ... INTO anything.
_RISKY = re.compile(r";\s*\S|@|--|/\*|(?<!\binsert )(?<!\bignore )\binto\b", re.IGNORECASE)


@lru_cache(maxsize=1024)
def text_leaves_nothing(statement: str) -> bool:
    """Whether a piece of SQL text certainly leaves nothing on its session.

    Plain reads and writes that call known functions only. Everything else may have left
    something, which costs a reset; the doubt goes to safety.
    """
    if _STARTS_HARMLESS.match(statement) is None or _RISKY.search(statement) is not None:
        return False
    return all(
        call.group(1).lower() in _HARMLESS or _is_table_of_insert(statement, call.start())
        for call in _CALL.finditer(statement)
    )


def _is_table_of_insert(statement: str, position: int) -> bool:
    """``INSERT INTO t (a, b)``: the name before that parenthesis is a table."""
    return re.search(r"\binto\s+[\"`]?$", statement[:position], re.IGNORECASE) is not None


def leaves_nothing(context: Any, statement: str) -> bool:
    """Whether what *context* executes certainly leaves nothing on its session.

    Answered once per compiled statement and remembered on it.
    """
    compiled = context.compiled
    if compiled is None or (
        # A listener has changed it, or it is another that SQLAlchemy needs first (a default).
        statement is not getattr(context, "statement", None)
        and context.execute_style is not ExecuteStyle.INSERTMANYVALUES
    ):
        return text_leaves_nothing(statement)
    known = getattr(compiled, "_tenantry_leaves_nothing", None)
    if known is None:
        known = compiled._tenantry_leaves_nothing = _statement_leaves_nothing(
            compiled.statement, statement
        )
    return bool(known)


def _statement_leaves_nothing(element: Any, statement: str) -> bool:
    if isinstance(element, TextClause) or not isinstance(element, (SelectBase, UpdateBase)):
        return text_leaves_nothing(statement)
    for part in visitors.iterate(element):
        if isinstance(part, TextClause) or getattr(part, "is_literal", False):
            return text_leaves_nothing(statement)
        # SQLAlchemy's own generic functions are all harmless; `func.anything` is a Function.
        if isinstance(part, Function) and (part.name.lower() not in _HARMLESS or part.packagenames):
            return False
        if isinstance(part, FunctionElement) and not hasattr(part, "name"):
            return False
        # Texts that are rendered as they are, and elements that render whatever they like.
        if not type(part).__module__.startswith("sqlalchemy.") or _holds_text(part):
            return text_leaves_nothing(statement)
    return True


def _holds_text(part: Any) -> bool:
    return (
        isinstance(getattr(part, "operator", None), custom_op)
        or bool(getattr(part, "_prefixes", None))
        or bool(getattr(part, "_suffixes", None))
        or bool(getattr(part, "_hints", None))
        or bool(getattr(part, "_statement_hints", None))
        or getattr(getattr(part, "name", None), "quote", None) is False
    )


# What holds no command of PostgreSQL's: comments (of one kind the beginning, for they nest), its
# three spellings of a text, names in quotes. A name may end in a dollar or an e, a comment at \r.
_QUOTED = re.compile(
    r"--[^\n\r]*|/\*|(?<![\w$])e'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|(?<![\w$])(\$(?:[a-z_]\w*)?\$).*?\1",
    re.IGNORECASE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")
_WORD = re.compile(r"['\"]\w*['\"]")
_BODY = re.compile(r"\bbegin\s+atomic\b.*?\bend\b", re.IGNORECASE | re.DOTALL)


@lru_cache(maxsize=1024)
def commands(statement: str) -> tuple[str, ...]:
    """The commands in a piece of PostgreSQL's SQL, without comments, bodies and longer texts."""
    parts, end = [], 0
    while (quoted := _QUOTED.search(statement, end)) is not None:
        parts.append(statement[end : quoted.start()])
        end = quoted.end()
        if quoted[0] == "/*":
            end = _end_of_comment(statement, end)
        if quoted[0][:2] in ("--", "/*"):
            parts.append(" ")
        else:
            parts.append(quoted[0] if _WORD.fullmatch(quoted[0]) else "''")
    parts.append(statement[end:])
    found = _BODY.sub("", "".join(parts)).split(";")
    return tuple(command for each in found if (command := each.strip()))


def _end_of_comment(statement: str, start: int) -> int:
    depth = 1
    for mark in _COMMENT.finditer(statement, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(statement)


_TRANSACTION = re.compile(
    r"(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction"
    r"|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE,
)
_SESSION_STATE = re.compile(
    r"\A(?:set\s+(?!local\b|transaction\b|constraints\b)|reset\b|listen\b|unlisten\b|load\b"
    r"|prepare\s+(?!transaction\b)|deallocate\b|discard\b"
    r"|declare\b.*\bwith\s+hold\b|create\s+(?:local\s+|global\s+)?temp)"
    r"|\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\("
    r"|\bset_config\s*\([^)]*,\s*(?:false|'f'|0)\s*\)",
    re.IGNORECASE | re.DOTALL,
)


def ends_transaction(statement: str) -> bool:
    """Whether a piece of SQL text begins or ends a transaction behind SQLAlchemy's back."""
    return any(_TRANSACTION.match(command) for command in commands(statement))


def keeps_session_state(statement: str) -> bool:
    """Whether a piece of SQL text certainly leaves something that outlives its transaction."""
    return any(_SESSION_STATE.search(command) for command in commands(statement))
