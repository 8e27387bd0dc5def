"""From the command to the page, and from a question to its answers, as a person waits for them in Chat.

    python -m benchmarks.opening [--times 3] [--questions 12]

A real studio on the built-in model and a real Chromium. Bounds: the page within 6 s of the command, a question's first
token within 1 s once the model is loaded, four answers in 1.5 times the time of one. Exit code 1 where one is missed.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
from playwright.sync_api import Page, sync_playwright

from engine.prompts import load_prompts
from tests.browser.serve import CHROMIUM, FLAGS, studio_at

FIRST_TEXT = """n => {
    const texts = [...document.querySelectorAll('.turn')].at(-1)?.querySelectorAll('.card .text') || [];
    return document.querySelectorAll('.turn').length === n && [...texts].some(t => !['', '…'].includes(t.textContent));
}"""
ALL_THERE = "k => [...document.querySelectorAll('.turn')].at(-1).querySelectorAll('.card footer').length === k"


def asked(page: Page, question: str, answers: int) -> tuple[float, float]:
    """(seconds to the first text, to the last answer's end) of a question in a new conversation."""
    page.click("button.new")
    page.locator(".empty").wait_for()
    page.select_option(".composer select", str(answers))
    page.fill(".composer textarea", question)
    started = time.perf_counter()
    page.keyboard.press("Enter")
    page.wait_for_function(FIRST_TEXT, arg=1)
    first = time.perf_counter() - started
    page.wait_for_function(ALL_THERE, arg=answers)
    return first, time.perf_counter() - started


@click.command()
@click.option("--times", default=3, show_default=True, help="How often the studio is opened.")
@click.option("--questions", default=12, show_default=True)
def main(times: int, questions: int) -> None:
    opened, ones, fours, firsts = [], [], [], []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        for number in range(times):
            began = time.perf_counter()
            with studio_at(folder / f"workspace-{number}", folder / "studio.log"):
                opened.append(time.perf_counter() - began)
        with studio_at(folder / "workspace", folder / "studio.log") as address:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(address)
            page.locator(".empty").wait_for()
            cold, _ = asked(page, "Hello!", 1)
            for question in load_prompts("everyday-test")[:questions]:
                first, one = asked(page, question, 1)
                firsts.append(first)
                ones.append(one)
                fours.append(asked(page, question, 4)[1])
            browser.close()
    ratio = median(fours) / median(ones)
    found = {
        "page_s": round(median(opened), 2),
        "first_question_s": round(cold, 2),
        "first_token_s": round(median(firsts), 2),
        "one_answer_s": round(median(ones), 2),
        "four_answers_s": round(median(fours), 2),
        "ratio": round(ratio, 2),
    }
    held = found["page_s"] <= 6 and found["first_token_s"] <= 1 and ratio <= 1.5
    click.echo(json.dumps(found | {"held": held}))
    sys.exit(not held)


if __name__ == "__main__":
    main()
