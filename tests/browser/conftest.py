"""A real studio on a free port and a real Chromium in front of it."""

import os

import pytest

from tests.browser.serve import CHROMIUM, FLAGS, studio_at


@pytest.fixture
def studio(tmp_path):
    """The address of a studio of its own."""
    with studio_at(tmp_path / "workspace", tmp_path / "studio.log") as address:
        yield address


@pytest.fixture(scope="session")
def driver():
    """Playwright, where there is a Chromium for it."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no chromium; .ci/run installs it")
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def chromium(driver):
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def page(chromium):
    """A page that fails the test if a script fails or anything off this machine is asked for."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(f"script: {error}"))
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
            else problems.append(f"request: {request.url}")
        ),
    )
    yield opened
    context.close()
    assert problems == []
