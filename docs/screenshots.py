"""Pictures of every page, light and dark, wide and narrow: `make screenshots`.

    python -m docs.screenshots [--workspace DIR] [--to build/screens]

Without a workspace the demo makes one first (a few minutes). The four in the README are copied into docs/.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from playwright.sync_api import Page, sync_playwright

from studio.pages import PAGES
from tests.browser.serve import CHROMIUM, FLAGS, studio_at

HERE = Path(__file__).parent
IN_README = ("chat-light-1440", "label-dark-1440", "train-light-1440", "compare-dark-1440")


def ask_once(page: Page, address: str) -> None:
    """A conversation for the picture of Chat: one question, ranked."""
    page.goto(address)
    page.click("button.new")
    page.locator(".empty").wait_for()
    page.click(".drawer-toggle")
    page.fill(".drawer .seed", "7")
    page.click(".drawer-toggle")
    page.fill(".composer textarea", "How do I make tea?")
    page.keyboard.press("Enter")
    page.locator(".turn .card button.rank").nth(3).wait_for()
    page.evaluate("document.activeElement.blur()")
    for key in "243":
        page.keyboard.press(key)
    page.wait_for_function("document.querySelectorAll('.card.ranked').length === 4")


@click.command()
@click.option("--workspace", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), default=Path("build/screens"), show_default=True)
def main(workspace: Path | None, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if workspace is None:
            workspace = Path(folder) / "workspace"
            demo = [sys.executable, "-m", "studio.cli", "demo", "--workspace", str(workspace)]
            subprocess.run(demo, check=True)
        with studio_at(workspace, Path(folder) / "studio.log") as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            ask_once(browser.new_page(), address)
            for theme in ("light", "dark"):
                for width, height in ((1440, 900), (390, 800)):
                    context = browser.new_context(viewport={"width": width, "height": height})
                    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
                    page = context.new_page()
                    for name, (_, path) in PAGES.items():
                        page.goto(address + path)
                        page.locator(".studio").wait_for()
                        page.wait_for_timeout(2000)
                        page.screenshot(path=to / f"{name}-{theme}-{width}.png")
                    context.close()
            browser.close()
    for name in IN_README:
        shutil.copy(to / f"{name}.png", HERE / f"{name}.png")
    click.echo(f"{len(list(to.glob('*.png')))} pictures in {to}, four of them in docs/")


if __name__ == "__main__":
    main()
