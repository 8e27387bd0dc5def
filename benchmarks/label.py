"""How long the page lets a person wait in Label: 60 questions of 4 answers ranked with keys alone.

    python -m benchmarks.label [--items 60] [--reading 2.0]

A real studio on the built-in model and a real Chromium. Every key is timed from the press to what it shows; the worst
in milliseconds, and exit code 1 where it is above 300.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
from playwright.sync_api import Page, sync_playwright

from tests.browser.serve import CHROMIUM, FLAGS, studio_at

BOUND = 300  # milliseconds
KEYS = 3  # of four answers; the last place is taken by what is left

RANKED = "n => document.querySelectorAll('.item .card.ranked').length === n"
NEXT = """id => {
    const item = document.querySelector('.item');
    return !['', id].includes(item.dataset.item) && item.querySelectorAll('.card').length === 4;
}"""


def pressed(page: Page, key: str, shows: str, argument: object) -> float:
    """Milliseconds from the key to what it shows."""
    started = time.perf_counter()
    page.keyboard.press(key)
    page.wait_for_function(shows, arg=argument, timeout=60_000)
    return 1000 * (time.perf_counter() - started)


@click.command()
@click.option("--items", default=60, show_default=True)
@click.option(
    "--reading", default=2.0, show_default=True, help="Seconds that the answers are read before they are ranked."
)
def main(items: int, reading: float) -> None:
    rng = random.Random(0)
    ranks: list[float] = []
    nexts: list[float] = []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        with studio_at(folder / "workspace", folder / "studio.log") as address:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{address}/label")
            page.locator(".item .card").nth(3).wait_for()
            for _ in range(items):
                time.sleep(reading)
                before = page.locator(".item").get_attribute("data-item")
                for place, key in enumerate(rng.sample("1234", KEYS), 1):
                    ranks.append(pressed(page, key, RANKED, place if place < KEYS else 4))
                nexts.append(pressed(page, "Enter", NEXT, before))
            browser.close()
    worst = max(*ranks, *nexts)
    found = {
        "items": items,
        "rank_ms": {"median": round(median(ranks), 1), "worst": round(max(ranks), 1)},
        "next_ms": {"median": round(median(nexts), 1), "worst": round(max(nexts), 1)},
        "bound_ms": BOUND,
        "held": worst <= BOUND,
    }
    click.echo(json.dumps(found))
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
