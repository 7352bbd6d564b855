"""Tenant ids that nobody means well with; the same ones in every run."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

REAL = ("uk", "aus", "eu", "acme", "tn_001")

_SQL = (
    "{id}'; DROP SCHEMA public CASCADE; --",
    '{id}"; SELECT 1; --',
    "{id}, {other}",
    "{id},{other}",
    "{id}' OR '1'='1",
    "{id}) UNION SELECT * FROM {other}.notes--",
    "{id}/**/",
    "{id}--",
    "$${id}$$",
    "E'{id}'",
    '"{id}"',
    "`{id}`",
    "[{id}]",
    '"$user", {id}',
    "{id}.notes",
    "{id};{other}",
    "{id}%",
    "_{id}",
    "%",
    "{id}\\",
)
_PATHS = (
    "../{id}",
    "../../etc/passwd",
    "{id}/../{other}",
    "/{id}",
    "/etc/passwd",
    "./{id}",
    "..\\{id}",
    "C:\\{id}",
    "file:{id}",
    "{id}/",
    "~/{id}",
    "{id}.db",
    "..",
    ".",
    "%2e%2e%2f{id}",
    "{id}\0.db",
)
_URLS = (
    "{id}?options=-csearch_path={other}",
    "{id}?host=evil.example",
    "{id}#{other}",
    "user:pass@host/{id}",
    "{id}@host",
    "{id}:5432",
    "postgresql://host/{id}",
    "{id}&tenant={other}",
    "{id}%00",
    "{id}%20",
    "http://{id}.example.com",
    "{id}\r\nX-Tenant: {other}",
)
_RESERVED = (
    "public",
    "postgres",
    "template0",
    "template1",
    "information_schema",
    "mysql",
    "sys",
    "master",
    "tempdb",
    "default",
    "none",
    "null",
    "shared",
    "main",
    "temp",
    "pg_catalog",
    "pg_temp",
    "pg_toast",
    "pg_temp_3",
    "pg_x",
    "tenantry",
)
_SPACES = "\n\r\t\v\f \0\x1c\x85\xa0\u2028\u2029\u200b\u200d\u2060\ufeff\u00ad\u202e"
_ALIKE = {
    "a": "\u0430\uff41\u00e0\u1d00\u2090",
    "c": "\u0441\uff43\u00e7",
    "e": "\u0435\uff45\u00e9",
    "k": "\u043a\u212a\uff4b",
    "m": "\u043c\uff4d",
    "n": "\uff4e\u00f1",
    "s": "\u0455\uff53\u017f",
    "t": "\u0442\uff54",
    "u": "\u057d\uff55\u00fc",
    "0": "\uff10\u0660",
    "1": "\uff11\u0661\u00b9",
    "_": "\uff3f\u203f",
}


class LikesEverything:
    """Equal to whatever it is compared with, and found under the hash of a real id."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("uk")

    def __str__(self) -> str:
        return "uk"


class Unspeakable:
    """Fails when it is shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class LooksLikeText(str):
    """A string, and then again not."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("uk")


def _filled(templates: tuple[str, ...]) -> Callable[[random.Random], object]:
    def make(dice: random.Random) -> object:
        template = dice.choice(templates)
        text = template.format(id=dice.choice(REAL), other=dice.choice(REAL))
        return text if dice.random() < 0.5 else dice.choice("'\";,/\\ ") + str(dice.random()) + text

    return make


def _long(dice: random.Random) -> object:
    length = dice.choice((49, 63, 64, 65, 100, 255, 256, 1_000, 70_000))
    return dice.choice("abxyz") * length


def _alike(dice: random.Random) -> object:
    text = list(dice.choice(REAL))
    place = dice.randrange(len(text))
    text[place] = dice.choice(_ALIKE.get(text[place], "\u0430"))
    return "".join(text)


def _spaced(dice: random.Random) -> object:
    text = dice.choice(REAL)
    place = dice.randint(0, len(text))
    return text[:place] + dice.choice(_SPACES) + text[place:]


def _cased(dice: random.Random) -> object:
    text = dice.choice(REAL)
    return dice.choice((text.upper(), text.title(), text[:-1] + text[-1:].upper(), text + "\u0301"))


def _noise(dice: random.Random) -> object:
    # Surrogates too: they are what a badly decoded request leaves behind.
    return "".join(chr(dice.randrange(0x110000)) for _ in range(dice.randint(0, 12)))


def _starts_wrong(dice: random.Random) -> object:
    return dice.choice("0123456789-_.") + dice.choice(REAL)


def _no_text(dice: random.Random) -> object:
    text = dice.choice(REAL)
    makers: tuple[Callable[[], object], ...] = (
        lambda: None,
        lambda: dice.randint(-(10**9), 10**9),
        lambda: 10**5_000,
        lambda: dice.random(),
        lambda: float("nan"),
        lambda: True,
        lambda: text.encode(),
        lambda: bytearray(text.encode()),
        lambda: [text],
        lambda: (text, dice.choice(REAL)),
        lambda: {text: 1},
        lambda: {text},
        lambda: object(),
        lambda: LikesEverything(),
        lambda: LooksLikeText(text),
        lambda: Unspeakable(),
        lambda: text.upper,
    )
    return dice.choice(makers)()


_KINDS: tuple[Callable[[random.Random], object], ...] = (
    _filled(_SQL),
    _filled(_PATHS),
    _filled(_URLS),
    _filled(_RESERVED),
    _long,
    _alike,
    _spaced,
    _cased,
    _noise,
    _starts_wrong,
    _no_text,
)
_POSSIBLE = re.compile(r"[a-z][a-z0-9_-]{0,47}")


def hostile_ids(n: int) -> list[object]:
    """*n* values of every kind in turn, none of which is a tenant id."""
    dice = random.Random(20250910)
    found: list[object] = []
    while len(found) < n:
        value = _KINDS[len(found) % len(_KINDS)](dice)
        harmless = type(value) is str and _POSSIBLE.fullmatch(value) and value not in _RESERVED
        if not harmless:
            found.append(value)
    return found
