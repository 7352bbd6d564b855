"""Claims of a login: verified elsewhere, or a token verified here."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import (
    ConfigurationError,
    InvalidTenantIdError,
    InvalidTokenError,
    MissingDependencyError,
    TenantMismatchError,
)
from tenantry.resolvers import (
    Identified,
    RequestFacts,
    first_of,
    from_claim,
    from_query,
    jwt_claims,
)
from tests.canary import CANARY, sightings

KEY = f"{CANARY} and thirty-two more characters, at least"
VERIFY = jwt_claims(KEY, algorithms=["HS256"], audience="shop", issuer="login")
RESOLVER = from_claim("tenant", verify=VERIFY)


def token(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    plain = {"tenant": "uk", "aud": "shop", "iss": "login", "exp": time.time() + 60}
    merged = {name: value for name, value in {**plain, **claims}.items() if value is not None}
    return jwt.encode(merged, key, algorithm)


def bearer(text: str) -> RequestFacts:
    return RequestFacts.of(headers={"Authorization": f"Bearer {text}"})


def test_a_claim_that_was_verified_elsewhere() -> None:
    facts = RequestFacts(claims={"tenant": "uk", "org": {"id": "aus"}})
    assert from_claim()(facts) == Identified("uk", "claim tenant", authenticated=True)
    nested = from_claim(["org", "id"])(facts)
    assert nested == Identified("aus", "claim org.id", authenticated=True)
    assert from_claim("missing")(facts) is None
    assert from_claim(["missing", "id"])(facts) is None


@pytest.mark.parametrize("value", [7, "", [], ["uk"], {"uk": 1}, True, b"uk"])
def test_a_claim_that_is_no_text_is_refused_and_nothing_else_is_tried(value: object) -> None:
    chain = first_of(from_claim(), from_query())
    facts = RequestFacts.of(claims={"tenant": value}, query={"tenant": "uk"})
    with pytest.raises(InvalidTenantIdError):
        chain(facts)
    with pytest.raises(InvalidTenantIdError):
        from_claim(["tenant", "id"])(RequestFacts(claims={"tenant": "uk"}))


def test_a_signed_token_names_the_tenant() -> None:
    answer = RESOLVER(bearer(token()))
    assert answer == Identified("uk", "claim tenant", authenticated=True)
    lower = RequestFacts.of(headers={"authorization": f"bearer  {token()} "})
    assert RESOLVER(lower) == answer
    assert RESOLVER(RequestFacts()) is None
    assert RESOLVER(RequestFacts.of(headers={"Authorization": "Basic dXNlcjpwdw=="})) is None


def test_a_token_in_a_cookie_or_another_header() -> None:
    cookie = jwt_claims(KEY, algorithms=["HS256"], audience=["x", "shop"], cookie="access")
    assert cookie(RequestFacts.of(cookies={"access": token()}))["tenant"] == "uk"
    header = jwt_claims(KEY, algorithms=["HS256"], audience="shop", header="X-Token")
    assert header(RequestFacts.of(headers={"X-Token": token()}))["tenant"] == "uk"


def test_two_tokens_are_refused() -> None:
    pairs = [("Authorization", f"Bearer {token()}"), ("Authorization", f"Bearer {token()}x")]
    with pytest.raises(TenantMismatchError):
        RESOLVER(RequestFacts.of(headers=pairs))


def unsigned(algorithm: str) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"tenant": "uk", "aud": "shop", "iss": "login", "exp": time.time() + 60}
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims)}."


BAD: dict[str, Callable[[], str]] = {
    "unsigned": lambda: unsigned("none"),
    "unsigned in capitals": lambda: unsigned("NONE"),
    "unsigned as HS256": lambda: unsigned("HS256"),
    "another algorithm": lambda: token(algorithm="HS384"),
    "another key": lambda: token(key="another key of more than thirty-two characters"),
    "expired": lambda: token(exp=time.time() - 1),
    "no expiry": lambda: token(exp=None),
    "expiry is text": lambda: token(exp="soon"),
    "endless": lambda: token(exp=float("inf")),
    "another audience": lambda: token(aud="other"),
    "no audience": lambda: token(aud=None),
    "audience is a number": lambda: token(aud=7),
    "another issuer": lambda: token(iss="other"),
    "no issuer": lambda: token(iss=None),
    "not yet": lambda: token(nbf=time.time() + 60),
    "cut": lambda: token()[:-2],
    "changed": lambda: token()[:-6] + "AAAAAA",
    "empty parts": lambda: "..",
    "no token": lambda: "x",
    "bytes": lambda: "\xff\xfe.\0.\ud800",
    "deep": lambda: base64.urlsafe_b64encode(b"[" * 50_000).decode() + ".e30.x",
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_token_is_refused_50_times_of_50(how: str) -> None:
    for number in range(50):
        with pytest.raises(InvalidTokenError) as caught:
            RESOLVER(bearer(BAD[how]()))
        assert caught.value.http_status == 401
        assert number or sightings(caught.value) == []


def test_a_bad_token_does_not_fall_through_to_what_is_typed() -> None:
    chain = first_of(RESOLVER, from_query())
    facts = RequestFacts.of(
        headers={"Authorization": f"Bearer {token(exp=1)}"}, query={"tenant": "uk"}
    )
    with pytest.raises(InvalidTokenError, match="it has expired"):
        chain(facts)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_no_token_crashes_the_verifier(text: str) -> None:
    try:
        assert RESOLVER(bearer(text)) is None
    except InvalidTokenError:
        pass


def test_a_key_may_be_looked_up_by_the_token() -> None:
    keys = {"a": KEY}

    def key(text: str) -> str:
        return keys[jwt.get_unverified_header(text).get("kid", "a")]

    verify = jwt_claims(key, algorithms=["HS256"], audience="shop")
    assert verify(bearer(token()))["tenant"] == "uk"


def test_signatures_with_a_public_key_need_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jwt.algorithms.has_crypto", False)  # as where it is not installed
    with pytest.raises(MissingDependencyError, match=r"pyjwt\[crypto\]"):
        jwt_claims("a public key", algorithms=["ES256", "RS256"], audience="shop")


@pytest.mark.parametrize(
    "algorithms", [["none"], ["None"], [], ["HS256", "RS256"], ["HS1"], "none", [None]]
)
def test_algorithms_that_cannot_be_trusted_are_refused(algorithms: Any) -> None:
    with pytest.raises(ConfigurationError):
        jwt_claims(KEY, algorithms=algorithms, audience="shop")


@pytest.mark.parametrize("audience", ["", [], [""]])
def test_an_audience_is_needed(audience: Any) -> None:
    with pytest.raises(ConfigurationError, match="audience"):
        jwt_claims(KEY, algorithms=["HS256"], audience=audience)


def test_the_key_is_not_shown() -> None:
    assert sightings(VERIFY) == []
    assert sightings(RESOLVER) == []


def test_without_pyjwt_the_install_command_is_told() -> None:
    code = """
import sys
sys.modules["jwt"] = None
from tenantry.errors import MissingDependencyError
from tenantry.resolvers import jwt_claims
try:
    jwt_claims("key", algorithms=["HS256"], audience="shop")
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "pip install 'tenantry[jwt]'" in done.stdout, done.stderr


def test_resolvers_need_the_standard_library_only() -> None:
    code = """
import sys
import tenantry.errors, tenantry.naming
before = set(sys.modules)
import tenantry.resolvers
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {"tenantry"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
