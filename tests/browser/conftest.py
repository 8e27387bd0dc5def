"""A real studio on a free port and a real Chromium in front of it."""

import os

import psutil
import pytest

from tests.browser.serve import CHROMIUM, FLAGS, free_port, start, studio_at


class Studio:
    """One that can be killed and started again at the same address."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.process = None

    def start(self) -> str:
        self.process = start(self.folder / "workspace", self.port, self.folder / "studio.log")
        return f"http://127.0.0.1:{self.port}"

    def worker(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        return next(c for c in children if "engine.serving.worker" in c.cmdline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def shared(shared_folder):
    """The address of a studio that tests share, for one takes seconds to start; what they leave in it others find."""
    with studio_at(shared_folder / "workspace", shared_folder / "studio.log") as address:
        yield address


@pytest.fixture
def studio(tmp_path):
    """The address of a studio of its own, for a test that counts what is in it or trains."""
    with studio_at(tmp_path / "workspace", tmp_path / "studio.log") as address:
        yield address


@pytest.fixture
def mortal(tmp_path):
    studio = Studio(tmp_path)
    yield studio
    studio.process.terminate()
    studio.process.wait(20)


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
    """A page that fails the test where a script fails, the console has an error or another machine is asked.

    That a studio is gone, which tests bring about, is no error of the page.
    """
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    problems: list[str] = []

    def asked(request):
        if not request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")):
            problems.append(f"request: {request.url}")

    def said(message):
        if message.type == "error" and "ERR_CONNECTION" not in message.text and "ERR_EMPTY" not in message.text:
            problems.append(f"console: {message.text} ({message.location.get('url')})")

    opened.on("pageerror", lambda error: problems.append(f"script: {error}"))
    opened.on("request", asked)
    opened.on("console", said)
    yield opened
    context.close()
    assert problems == []
