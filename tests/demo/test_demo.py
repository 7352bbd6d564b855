"""``tenantry demo``: made, asked over HTTP, shown, served until Ctrl-C, and gone afterwards."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tenantry.cli.demo import demo
from tenantry.demo.application import HEADER, create_app
from tenantry.demo.orders import SHOPS
from tenantry.demo.serving import QUESTIONS, ask, claimed, served
from tenantry.demo.world import add_tenant, opened
from tenantry.errors import CallerError
from tenantry.testing.address import ServerAddress

OPEN = [tenant_id for tenant_id, shop in SHOPS.items() if not shop.suspended]


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from tenantry.cli.main import main; main()", *arguments]


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder), "COLUMNS": "100", **more}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ExitStack() as stack:
        tenancy = stack.enter_context(opened())
        for tenant_id in SHOPS:
            add_tenant(tenancy, tenant_id)
        listener = stack.enter_context(claimed())
        yield stack.enter_context(served(create_app(tenancy), listener))


def get(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"Accept": "text/html", **named})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()


def test_every_way_of_asking_is_answered_from_the_tenants_database(port: int) -> None:
    said = [ask(question, port) for question in QUESTIONS]
    assert [status for status, _ in said] == [200, 200, 200, 400, 404, 403, 403]
    for (_, answer), tenant_id, why in zip(
        said, OPEN, ("query tenant", f"header {HEADER}", "subdomain"), strict=False
    ):
        assert answer["tenant"] == tenant_id
        assert answer["named_by"] == why
        assert answer["database"] == f"{tenant_id}.db"
        assert len(answer["orders"]) == len(SHOPS[tenant_id].orders)
    assert [answer["error"] for _, answer in said[3:]] == [
        "The request does not say which tenant it is for.",
        "There is no such tenant.",
        "This tenant is suspended.",
        "The request is for two different tenants.",
    ]


@pytest.mark.parametrize("tenant_id", OPEN)
def test_the_page_shows_who_why_where_and_the_tenants_orders_alone(
    port: int, tenant_id: str
) -> None:
    status, headers, page = get(port, Host=f"{tenant_id}.localhost:{port}")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    text = " ".join(words(page))
    assert SHOPS[tenant_id].title in text
    assert f"Tenant {tenant_id} Named by the host name" in text
    assert f"{tenant_id}.db on files" in text
    for other, shop in SHOPS.items():
        for customer, item, _ in shop.orders:
            assert (customer in text) is (other == tenant_id)
            assert (item in text) is (other == tenant_id)


def test_the_page_shows_a_refusal(port: int) -> None:
    status, _, page = get(port, "/?tenant=nz")
    text = " ".join(words(page))
    assert status == 403
    assert "403 Forbidden" in text
    assert "This tenant is suspended." in text
    assert "none was asked" in text


def test_the_page_repeats_nothing_of_the_request(port: int) -> None:
    for path, headers in (
        ("/?tenant=%3Cscript%3Ecanary", {}),
        ("/canary", {}),
        ("/", {"X_Tenant": "<script>canary"}),
        ("/?tenant=uk", {"Host": '"><script>canary:80'}),
    ):
        _, _, page = get(port, path, **headers)
        assert "canary" not in page, path


def test_the_page_needs_nothing_from_elsewhere(port: int) -> None:
    _, _, page = get(port, "/?tenant=uk")
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words(page: str) -> list[str]:
    found: list[str] = []

    class Text(HTMLParser):
        def handle_data(self, data: str) -> None:
            found.extend(data.split())

    body = page[page.index("<body") :]
    Text().feed(body)
    return found


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(CallerError, match=f"port {taken} .* name another with --port"):
            claimed(taken).__enter__()


# The command --------------------------------------------------------------------------------


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program("demo", *arguments),
        env=environment(folder, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_a_terminal_it_prints_the_transcript_and_ends(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        r"uk +ready +files/uk\.db \(database\) +5",
        r"nz +suspended",
        r"\$ curl 'http://127\.0\.0\.1:\d+/\?tenant=uk'\n  200 uk from uk\.db, named by the arg",
        r"\$ curl -H 'X-Tenant: aus' http://127\.0\.0\.1:\d+/\n  200 aus from aus\.db",
        r"\$ curl http://eu\.localhost:\d+/\n  200 eu from eu\.db, named by the host name",
        r"  400 The request does not say",
        r"  404 There is no such tenant",
        r"  403 This tenant is suspended",
    ):
        assert re.search(line, done.stdout), line
    assert "Serving" not in done.stdout
    assert "\x1b" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@contextmanager
def at_a_terminal(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command at a terminal of its own, and the terminal."""
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        program("demo", *arguments),
        env=environment(folder, TERM="xterm"),
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
        # As at a terminal, also where these tests run in the background and inherit "ignored".
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(its_end)
    try:
        yield process, terminal
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(terminal)


def read_until(terminal: int, wanted: str, seconds: float = 90) -> str:
    seen, deadline = "", time.monotonic() + seconds
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_at_a_terminal_it_serves_until_it_is_ended(tmp_path: Path, end: signal.Signals) -> None:
    with at_a_terminal(tmp_path) as (process, terminal):
        seen = read_until(terminal, "(Ctrl-C ends it)")
        assert "Making tenant" in seen
        assert len(list(tmp_path.iterdir())) == 1
        port = int(re.findall(r"http://127\.0\.0\.1:(\d+)/", seen)[-1])
        status, _, page = get(port, "/?tenant=eu")
        assert (status, "Lise Meitner" in page) == (200, True)
        process.send_signal(end)
        assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_demo_once_ends_at_a_terminal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_ONCE", "1")
    with at_a_terminal(tmp_path) as (process, terminal):
        read_until(terminal, "two different tenants")
        assert process.wait(30) == 0


def test_used_wrongly_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = run(tmp_path, "--port", str(other.getsockname()[1]))
    assert (taken.returncode, taken.stdout) == (2, "")
    assert "name another with --port" in taken.stderr
    for arguments in (("--port", "65536"), ("--server", "oracle"), ("--nonsense",)):
        assert CliRunner().invoke(demo, arguments).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [("flask", r"pip install 'tenantry\[flask,cli\]'"), ("greenlet", "")],
)
def test_what_is_not_installed(tmp_path: Path, missing: str, words: str) -> None:
    """Flask is needed and its absence explained; greenlet, which asyncio needs, is not."""
    hidden = f"import sys; sys.modules[{missing!r}] = None; import importlib.util as u; "
    hidden += f"f = u.find_spec; u.find_spec = lambda n, *a: None if n == {missing!r} else f(n, *a)"
    code = f"{hidden}\nfrom tenantry.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if words:
        assert done.returncode == 2
        assert re.search(words, done.stderr)
        assert "Traceback" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_the_same_on_postgresql(postgresql: ServerAddress) -> None:
    """It starts a server of its own; ours is asked for because its binaries must be there."""
    pytest.importorskip("psycopg")
    done = run(Path("/tmp"), "--server", "postgresql")  # a socket's path must be short
    assert done.returncode == 0, done.stderr
    assert re.search(r"uk +ready +postgresql/uk \(database\) +5", done.stdout)
    assert "200 eu from eu, named by the host name" in done.stdout
