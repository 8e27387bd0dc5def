"""Chat, as a person uses it: all that is said of an answer is kept, and so is what is still being written."""

import json

import pytest

import engine
from tests.browser.acts import ask, labelled, newest_feedback, open_chat, stored

pytestmark = pytest.mark.browser


def test_a_ranking_on_its_way_when_the_page_is_left_is_kept(shared, shared_folder, page):
    before = newest_feedback(shared_folder)
    open_chat(page, shared)
    ask(page, "What is 3 plus 4?")
    held, left = [], []

    def hold_rankings(route):
        if not left and '"rank"' in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route("**/component_server/**", hold_rankings)
    for card in (1, 0, 2):
        page.locator("button.rank").nth(card).click()
    page.locator(".card.ranked").nth(3).wait_for()
    assert held and newest_feedback(shared_folder) == before
    left.append(True)
    page.reload()
    page.locator(".card.ranked").nth(3).wait_for()
    (row,) = stored(shared_folder, "SELECT value FROM current_feedback WHERE id > ?", before)
    assert [len(tier) for tier in json.loads(row["value"])["tiers"]] == [1, 1, 1, 1]


def test_chat_keeps_all_that_is_said_of_an_answer(shared, page):
    open_chat(page, shared)
    page.fill(".composer textarea", "I feel sad.")
    page.keyboard.press("Enter")
    card = page.locator(".turn .card").nth(1)
    card.locator("button.rank").wait_for()
    card.locator(".star").nth(3).click()
    page.locator(".saved", has_text="Rating saved").wait_for()
    card.locator(".star").nth(3).click()
    page.locator(".saved", has_text="Rating taken off").wait_for()
    assert page.locator(".star.on").count() == 0
    card.locator(".star").nth(3).click()
    page.locator(".saved", has_text="Rating saved").wait_for()
    card.locator(".tag-it").click()
    card.locator(".tag-choice", has_text="helpful").click()
    page.locator(".saved", has_text="Tag saved").wait_for()
    card.locator(".remark").click()
    card.locator("textarea").fill("Kind, but vague.")
    card.locator(".save-comment").click()
    page.locator(".comment", has_text="Kind, but vague.").wait_for()
    first = page.locator(".turn .card .text").nth(0).inner_text()
    page.locator(".turn .card").nth(0).drag_to(page.locator(".turn .card").nth(2))
    page.wait_for_function("document.querySelectorAll('.card.ranked').length === 4")
    assert page.locator(".turn .card .text").nth(2).inner_text() == first

    page.click("button.regenerate")
    page.wait_for_function("document.querySelectorAll('.turn .card button.rank').length === 8")
    page.click(".rename")
    page.fill(".conversations input", "A sad talk")
    page.keyboard.press("Enter")
    page.locator(".conversation", has_text="A sad talk").wait_for()
    page.reload()
    page.locator(".comment", has_text="Kind, but vague.").wait_for()
    assert page.locator(".star.on").count() == 4 and page.locator(".tags .tag").inner_text() == "helpful"
    page.click(".remove")
    page.locator(".empty").wait_for()
    page.click(".bring-back")
    page.locator(".conversation", has_text="A sad talk").wait_for()
    # What is asked for last is what is shown, though what was asked for before it comes later.
    late = []

    def hold_the_first(route):
        first = '"load"' in (route.request.post_data or "") and not late
        late.append(route) if first else route.continue_()

    page.route("**/component_server/**", hold_the_first)
    page.reload()
    page.click("button.new")
    page.locator(".empty").wait_for()
    late[0].continue_()
    page.wait_for_timeout(1000)
    assert page.locator(".empty").is_visible()
    page.unroute("**/component_server/**")

    page.click(".drawer-toggle")
    page.fill(".drawer .temperature", "9")
    page.locator(".composer textarea").click()
    page.fill(".composer textarea", "And now?")
    page.keyboard.press("Enter")
    page.locator(".notice.error", has_text="temperature goes from").wait_for()
    assert page.locator(".composer textarea").input_value() == "And now?"  # nothing typed is lost


def test_what_is_being_written_outlives_the_page(shared, shared_folder, page):
    """A click elsewhere draws the cards anew, and a page is left by accident: neither loses a word."""
    before = newest_feedback(shared_folder)
    open_chat(page, shared)
    ask(page, "I feel sad.")
    cards = page.locator(".turn .card")
    cards.nth(0).locator(".edit").click()
    cards.nth(0).locator("textarea").fill("I am with you, whatever it is.")
    cards.nth(1).locator(".remark").click()
    cards.nth(1).locator("textarea").press_sequentially("Too short")
    cards.nth(2).locator(".star").nth(1).click()
    page.locator(".saved", has_text="Rating saved").wait_for()
    assert cards.nth(1).locator("textarea").input_value() == "Too short"
    page.reload()
    cards.nth(1).locator("textarea").wait_for()
    assert cards.nth(1).locator("textarea").input_value() == "Too short"
    cards.nth(1).locator("textarea").press("Escape")
    cards.nth(0).locator(".save-edit").click()
    page.locator(".card .tag", has_text="edited").wait_for()
    assert cards.nth(0).locator(".text").inner_text() == "I am with you, whatever it is."
    assert not page.locator(".card textarea").count()

    page.goto(f"{shared}/label")
    page.locator(".item .card").nth(3).wait_for()
    done = labelled(page)
    page.keyboard.press("e")
    page.locator(".card.editing textarea").fill("Said better.")
    page.reload()
    page.locator(".card.editing textarea").wait_for()
    assert page.locator(".card.editing textarea").input_value() == "Said better."
    page.locator(".item button.rank").nth(1).click()
    page.click("button.next")  # which saves what is being rewritten too
    page.locator(".pace", has_text=f"{done + 1} of 50").wait_for()
    kept = stored(shared_folder, "SELECT kind, value FROM current_feedback WHERE id > ? ORDER BY id", before)
    assert [row["kind"] for row in kept] == ["rating", "edit", "edit", "ranking"]
    assert "Said better." in kept[2]["value"]


def test_long_answers_in_markdown_are_read_from_their_start(shared, shared_folder, page):
    store = engine.Store(shared_folder / "workspace" / "studio.db")
    pocket = engine.versions.newest_chat_version(store)["id"]
    conversation = engine.conversations.start_conversation(store, "Tea")
    prompt = engine.conversations.add_prompt(store, "How do I make tea?", "chat", conversation)
    steps = "\n\n".join(f"{n}. **Wait** a little longer than before." for n in range(1, 40))
    rows = [{"text": f"Like this:\n\n{steps}", "tokens": 300, "seed": n, "finish": "stop"} for n in range(4)]
    engine.conversations.add_responses(store, prompt, pocket, {}, rows)
    store.close()

    page.goto(shared)
    first = page.locator(".card .markdown li").first
    first.wait_for()
    assert first.inner_text() == "Wait a little longer than before."
    assert first.locator("strong").inner_text() == "Wait"
    line = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.card .markdown')).lineHeight)")
    assert first.bounding_box()["height"] < 4 * line  # no empty lines within an item
    assert page.locator(".turn .ask").bounding_box()["y"] >= page.locator(".talk").bounding_box()["y"]
    assert page.locator("button.rank").first.bounding_box()["y"] < page.viewport_size["height"] / 2
