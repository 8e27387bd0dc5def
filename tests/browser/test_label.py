"""Label, by the keyboard alone."""

import json

import pytest

from tests.browser.acts import ask, labelled, rank_by_keys, stored

pytestmark = pytest.mark.browser


def test_label_by_keys_alone(studio, page, tmp_path):
    page.goto(f"{studio}/label")
    page.locator(".item .card").nth(3).wait_for()
    first = page.locator(".item .ask").inner_text()
    rank_by_keys(page, "3", "1", "Shift+Digit2")
    assert "1 of 50" in page.locator(".pace").inner_text()
    ranking = json.loads(stored(tmp_path, "SELECT value FROM current_feedback")[0]["value"])["tiers"]
    assert [len(tier) for tier in ranking] == [1, 2, 1]
    shown = stored(tmp_path, "SELECT count(*) AS n, max(seed) - min(seed) AS apart FROM responses GROUP BY prompt_id")
    assert {row["n"] for row in shown} == {4} and any(row["apart"] > 3 for row in shown)  # four of more

    # Enter without a ranking says what to do; undo brings the item back.
    page.keyboard.press("Enter")
    page.locator(".notice.show", has_text="best answer").wait_for()
    page.keyboard.press("z")
    page.wait_for_function("text => document.querySelector('.item .ask').textContent === text", arg=first)
    assert "0 of 50" in page.locator(".pace").inner_text()

    # Rewrite a card without the mouse, with the difference shown while typing.
    page.keyboard.press("ArrowRight")
    page.keyboard.press("e")
    page.locator(".card.editing textarea").fill("A better answer.")
    assert page.locator(".diff-box ins").all_inner_texts()[-1].endswith("answer.")
    page.keyboard.press("Control+Enter")
    page.locator(".card .tag", has_text="edited").wait_for()
    page.keyboard.press("s")  # and skip the item
    page.wait_for_function("text => document.querySelector('.item .ask').textContent !== text", arg=first)

    page.keyboard.press("?")
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    for _ in range(10):
        rank_by_keys(page, "1", "2", "3")
    page.locator(".tag.again").wait_for()  # one of every ten is asked again
    page.reload()
    page.locator(".tag.again").wait_for()
    assert "10 of 50" in page.locator(".pace").inner_text()
    rank_by_keys(page, "1")
    assert "10 of 50" in page.locator(".pace").inner_text()  # a repeat is no progress


def test_enter_saves_a_ranking_in_the_frame_in_which_the_help_was_closed(shared, page):
    """The button of a dialog that is closed has the focus until the next frame; a slow machine's frames are long."""
    page.goto(f"{shared}/label")
    page.locator(".item .card").nth(3).wait_for()
    done = labelled(page)
    page.evaluate(
        """() => {
            const help = document.querySelector("dialog.keys");
            help.showModal();
            help.close();
            for (const key of ["1", "2", "3", "Enter"]) {
                const code = key === "Enter" ? key : `Digit${key}`;
                document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, code, bubbles: true }));
            }
        }"""
    )
    page.locator(".pace", has_text=f"{done + 1} of 50").wait_for()


def test_a_question_is_there_at_once_and_its_answers_are_drawn_as_the_settings_in_chat_say(mortal, page, tmp_path):
    address = mortal.start()
    page.goto(address)
    page.locator(".empty").wait_for()
    ask(page, "I feel sad.")
    page.click(".drawer-toggle")
    page.fill(".drawer .max_new_tokens", "3")
    page.fill(".drawer .temperature", "1")  # the usual one is not kept: it may be another model's tomorrow
    page.locator(".drawer .temperature").press("Tab")
    kept = page.evaluate("JSON.parse(localStorage.getItem('chat-settings'))")
    assert (kept["max_new_tokens"], kept["temperature"]) == (3, None)
    worker = mortal.worker()
    worker.suspend()  # or the answers would be there before anyone could look
    page.goto(f"{address}/label")
    page.locator(".item .ask + .hint", has_text="The model is writing answers").wait_for()
    question = page.locator(".item .ask").inner_text()
    worker.resume()
    page.locator(".item .hint", has_text="cut off").wait_for()
    assert page.locator(".item .ask").inner_text() == question
    drawn = stored(
        tmp_path,
        "SELECT max(r.tokens) AS n, min(json_extract(r.sampling, '$.max_new_tokens')) AS m"
        " FROM responses r JOIN prompts p ON p.id = r.prompt_id WHERE p.source != 'chat'",
    )
    assert drawn == [{"n": 3, "m": 3}]
