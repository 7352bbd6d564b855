"""The embedded dashboard in a real browser, in the demonstration's host application."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.ui import WebDriverWait
from werkzeug.serving import make_server

from examples.superset.host import ACCOUNTS, create_app
from examples.superset.regions import ROWS, sales
from tenantry.errors import MissingDependencyError
from tests.servers.session import missing
from tests.servers.sources import MACHINE, Installation, fetch
from tests.superset.conftest import HOST_PORT, Running

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PASSWORD = secrets.token_urlsafe(12)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,640", "--hide-scrollbars"),
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def host(ours: Running) -> Iterator[str]:
    """The host application, where Superset lets it embed the dashboard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOST_SECRET_KEY", secrets.token_urlsafe(42))
        patch.setenv("SUPERSET_URL", ours.url)
        patch.setenv("SUPERSET_EMBEDDED", ours.made.embedded)
        patch.setenv("SUPERSET_EMBEDDER_PASSWORD", ours.superset.passwords["embedder"])
        for name in ACCOUNTS:
            patch.setenv(f"HOST_PASSWORD_{name.upper()}", PASSWORD)
        app = create_app()
        server = make_server("127.0.0.1", HOST_PORT, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{HOST_PORT}"
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions["guest_tokens"].close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    try:
        installation = _installation()
    except MissingDependencyError as error:
        missing(str(error))
    options = webdriver.ChromeOptions()
    # Not Debian's script of that name, which starts what lies below / itself.
    unpacked = installation.root / "usr" / "lib" / "chromium" / "chromium"
    options.binary_location = str(unpacked if unpacked.is_file() else installation.program(*NAMES))
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = str(installation.program(DRIVER))
    environment = {**os.environ, **installation.environment}
    started = webdriver.Chrome(options, webdriver.ChromeService(driver, env=environment))
    yield started
    started.quit()


def _installation() -> Installation:
    if MACHINE.has([NAMES, [DRIVER]]):
        return MACHINE
    packages = ["chromium", "chromium-common", "chromium-driver"]
    return fetch("Chromium", packages, ["chromium"], [NAMES, [DRIVER]])


def log_in(browser: webdriver.Chrome, host: str, name: str) -> None:
    browser.switch_to.default_content()
    browser.get(f"{host}/logout")
    browser.find_element(By.NAME, "name").send_keys(name)
    browser.find_element(By.NAME, "password").send_keys(PASSWORD)
    browser.find_element(By.TAG_NAME, "button").click()


def text_of(browser: webdriver.Chrome, until: str) -> str:
    """The text of the embedded dashboard, once *until* is in it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen = ""
    while time.monotonic() < deadline:
        browser.switch_to.default_content()
        frames = browser.find_elements(By.TAG_NAME, "iframe")
        if frames:
            browser.switch_to.frame(frames[0])
            try:
                seen = browser.find_element(By.TAG_NAME, "body").text
            except (StaleElementReferenceException, WebDriverException):
                seen = ""
            if until in seen:
                return seen
        time.sleep(0.3)
    raise AssertionError(f"no {until!r} in: {seen[:2000]}")


def total_in(browser: webdriver.Chrome, text: str) -> re.Match[str]:
    """The number of the first chart, which may come after the table's rows."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (shown := re.search(r"Total amount\n([\d.]+)(k?)", text)):
        assert time.monotonic() < deadline, text[:2000]
        text = text_of(browser, "Total amount")
    return shown


def others(name: str) -> list[str]:
    return [f"{other}-product" for other in ROWS if other != name]


@pytest.mark.parametrize("name", list(ACCOUNTS))
def test_each_customer_sees_their_region_and_its_filter_values(
    browser: webdriver.Chrome, host: str, name: str
) -> None:
    region = ACCOUNTS[name]
    log_in(browser, host, name)
    text = text_of(browser, f"{region}-product-1")
    for other in others(region):
        assert other not in text
    total = sum(row[3] for row in sales(region, ROWS[region]))
    shown = total_in(browser, text)
    # Superset shows three digits.
    assert abs(float(shown[1]) * (1000 if shown[2] else 1) - total) <= total / 100
    # The filter's own list: everything that could be chosen.
    box = (By.CSS_SELECTOR, "[data-test='form-item-value'] .ant-select")
    WebDriverWait(browser, PATIENCE_SECONDS).until(element_to_be_clickable(box)).click()
    deadline = time.monotonic() + PATIENCE_SECONDS
    options: set[str] = set()
    while len(options) < ROWS[region] and time.monotonic() < deadline:
        found = browser.find_elements(By.CSS_SELECTOR, ".ant-select-item-option")
        options |= {each.get_attribute("title") or each.text for each in found}
        options = {each for each in options if "-product-" in each}
        time.sleep(0.2)
    assert options == {row[2] for row in sales(region, ROWS[region])}
    browser.switch_to.default_content()
    if region in ("uk", "aus"):
        keep(browser, region)


def keep(browser: webdriver.Chrome, region: str) -> None:
    """The picture in the documentation is from this test, once it is missing."""
    picture = IMAGES / f"superset-{region}.png"
    if not picture.exists():
        IMAGES.mkdir(parents=True, exist_ok=True)
        assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size < 200_000


def test_one_browser_in_which_the_customer_changes(browser: webdriver.Chrome, host: str) -> None:
    """Superset's cookies and the browser's own cache stay; the rows do not."""
    for name in ("alice", "bruce", "alice"):
        region = ACCOUNTS[name]
        log_in(browser, host, name)
        text = text_of(browser, f"{region}-product-1")
        for other in others(region):
            assert other not in text
