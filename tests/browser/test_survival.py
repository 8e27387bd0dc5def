"""The studio or its worker killed in the middle of what it does: nothing a person did is lost, and the page goes on."""

import pytest

from tests.browser.acts import ask

pytestmark = pytest.mark.browser


def test_killed_while_an_answer_is_written(mortal, page):
    page.goto(mortal.start())
    page.locator(".empty").wait_for()
    ask(page, "I feel sad.")
    worker = mortal.worker()
    worker.suspend()  # or it would have answered before anyone could kill it
    page.fill(".composer textarea", "How do I make tea?")
    page.keyboard.press("Enter")
    page.locator(".card.live").first.wait_for()
    worker.kill()
    page.locator(".notice.error", has_text="starts again with your next question").wait_for()
    page.locator("button.regenerate", has_text="Answer it").click()
    page.wait_for_function("document.querySelectorAll('.card button.rank').length === 8")

    mortal.worker().suspend()
    page.fill(".composer textarea", "Tell me a joke about a cow.")
    page.keyboard.press("Enter")
    page.locator(".card.live").first.wait_for()
    orphan = mortal.worker()
    mortal.kill()
    orphan.resume()
    orphan.wait(20)  # no one is left that would hear it
    mortal.start()  # the page is still open, and hears that nobody is answering any more
    page.locator("button.regenerate", has_text="Answer it").wait_for()
    page.reload()
    page.locator(".turn .ask", has_text="Tell me a joke about a cow.").wait_for()
    assert page.locator(".card button.rank").count() == 8
    assert page.locator("button.regenerate", has_text="Answer it").is_enabled()


def test_killed_while_a_run_trains(mortal, page):
    address = mortal.start()
    page.goto(address)
    page.locator(".empty").wait_for()
    ask(page, "I feel sad.")
    page.locator("button.rank").first.click()
    page.locator(".card.best").wait_for()
    page.goto(f"{address}/train")
    page.click("button.improve")
    page.locator(".status.running").wait_for()
    mortal.kill()
    page.locator(".notice.error", has_text="does not answer").wait_for()
    page.locator(".device.gone").wait_for()
    mortal.start()  # the page is still open, and finds the studio and the run by itself
    page.locator(".device:not(.gone)").wait_for()
    assert page.locator(".status.running").is_visible()
    page.click("button.stop-run")
    page.locator(".status.stopped").wait_for()
    assert "Stopped on request" in page.locator(".reason").inner_text()
