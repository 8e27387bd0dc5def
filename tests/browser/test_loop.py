"""What a person does: ask, rank, rewrite, improve, compare, vote; and reload in the middle of it."""

import pytest

from tests.browser.acts import ask

pytestmark = pytest.mark.browser

QUESTIONS = [
    "What is the capital of France?",
    "I feel sad.",
    "How do I make tea?",
    "Tell me a joke about a cow.",
    "What is 3 plus 4?",
]


def counts(page):
    return page.locator(".top .counts").inner_text()


def test_the_loop_closes(studio, page):
    page.goto(studio)

    # Ask and rank: by keys, by clicks, and with a tie.
    page.locator(".empty").wait_for()
    for number, question in enumerate(QUESTIONS):
        if number:
            page.click("button.new")
            page.locator(".empty").wait_for()
        ask(page, question)
        cards = page.locator(".turn").last.locator(".card")
        assert cards.count() == 4
        assert all(text.strip() for text in cards.locator(".text").all_inner_texts())
        if number % 2:
            for card in (2, 0, 1):
                cards.nth(card).locator("button.rank").click()
        else:
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press("3")
            page.keyboard.press("1")
            page.keyboard.press("Shift+Digit2")
        page.wait_for_function("document.querySelectorAll('.card.ranked').length === 4")
        assert cards.nth(2).get_attribute("class").split().count("best") == 1
    page.reload()
    page.wait_for_function("document.querySelectorAll('.card.ranked').length === 4")
    assert "5 rankings" in counts(page)

    # Rewrite one, rate one, take the rating back.
    card = page.locator(".turn").last.locator(".card").nth(1)
    card.locator("button.edit").click()
    page.fill(".card.editing textarea", "Seven, my friend. <b>${7}</b>")
    page.click(".save-edit")
    page.locator(".card .tag", has_text="edited").wait_for()
    assert "Seven, my friend. <b>${7}</b>" in page.locator(".turn").last.inner_text()  # as text, not as code
    page.locator(".turn").last.locator(".card").nth(2).get_by_role("button", name="Good answer").click()
    page.locator(".icon.on").wait_for()
    page.click("button.undo")
    page.wait_for_function("document.querySelectorAll('.icon.on').length === 0")
    assert "5 rankings · 1 edit · 0 ratings" in counts(page)

    # The conversation goes on from a chosen answer.
    page.locator(".turn").last.locator(".card").nth(2).locator(".go-on").click()
    ask(page, "Are you sure?")
    assert page.locator(".turn").count() == 2

    # A run that would take long names a shorter way.
    page.goto(f"{studio}/train")
    page.click(".advanced summary")
    updates = page.locator(".one-setting", has=page.get_by_text("ppo.updates", exact=True)).locator("input")
    updates.fill("20000")
    updates.blur()
    page.locator(".cost", has_text="Directly from your rankings (DPO) it takes about").wait_for()
    assert "Quick takes about" in page.locator(".cost").inner_text()
    updates.fill("")
    updates.blur()
    page.locator(".cost:not(:has-text('DPO'))").wait_for()

    # Improve, and reload in the middle.
    page.select_option("select.preset", "quick")
    page.click("button.improve")
    page.locator(".status.running").wait_for()
    page.locator(".stages .now", has_text="PPO").wait_for(timeout=240_000)
    page.reload()
    page.locator(".status.running").wait_for()
    assert "Run 1" in page.locator(".run-head h2").inner_text()
    assert page.locator("button.improve").is_disabled()
    page.locator(".status.finished").wait_for(timeout=400_000)
    assert page.locator(".charts svg").count() == 6
    assert page.locator(".samples dt").count() > 0
    # What is folded, opened: the log's long lines widen nothing, earlier answers do not cover what opens them.
    wider, gaps = page.locator(".run").evaluate(
        "run => { run.querySelectorAll('details').forEach(d => d.open = true);"
        " const box = e => e.getBoundingClientRect();"
        " return [Math.max(...[...run.children].map(e => box(e).right)) - box(run).right,"
        " [...run.querySelectorAll('details > .samples')].map(e => box(e).top - box(e.previousElementSibling).bottom)]}"
    )
    assert wider < 1 and len(gaps) > 0 and min(gaps) >= 0
    told = page.locator(".settings-list")
    assert told.locator("dt", has_text="dpo.").count() == 0, "no settings that this run does not read"
    assert told.locator("dt:text-is('ppo.learning_rate') + dd").inner_text() == "0.001", "Quick's, in four blocks"
    assert float(told.locator("dt:text-is('reward.learning_rate') + dd").inner_text()) > 0, "what it comes to"

    # Compare, blind.
    page.get_by_role("link", name="Compare before and after").click()
    page.locator(".vote-left").wait_for()
    for number, button in enumerate((".vote-left", ".vote-right", ".vote-tie"), 1):
        page.click(button)
        page.locator(".figures", has_text=f"of {number};").wait_for()
    page.reload()
    page.locator(".figures", has_text="of 3;").wait_for()
    page.click(".vote-tie")
    page.locator(".figures", has_text="of 4;").wait_for()
    page.keyboard.press("z")  # a slip: the same question again
    page.click(".vote-left")
    page.locator(".ballot", has_text="Question 5 of").wait_for()
    page.locator(".figures", has_text="of 4;").wait_for()
    page.click(".voted summary")
    assert page.locator(".items tr").count() == 0  # the sides are not given away before that is asked for
    page.click(".reveal button")
    page.wait_for_function(
        "[...document.querySelectorAll('.items .choice')].filter((c) => c.innerText !== '–').length === 4"
    )
    assert page.locator(".plots svg").count() == 2
    page.click(".vote-left")
    page.locator(".figures", has_text="of 4;").wait_for()
    page.locator(".figures", has_text="not counted: 1").wait_for()

    # The chat answers with the new model now.
    page.goto(studio)
    page.locator(".top .model", has_text="round-1").wait_for()
    page.click("button.new")
    page.locator(".empty").wait_for()
    ask(page, "I feel tired.")


def test_a_run_can_be_paused_and_stopped_and_another_way_of_learning_taken(studio, page):
    page.goto(studio)
    page.locator(".empty").wait_for()
    ask(page, QUESTIONS[0])
    for card in (1, 0):
        page.locator(".turn").last.locator("button.rank").nth(card).click()
    page.locator(".card.best").wait_for()
    page.goto(f"{studio}/train")
    page.locator(".count b", has_text="1").first.wait_for()
    page.select_option("select.preset", "thorough")
    page.click("button.improve")
    page.locator(".status.running").wait_for()
    page.click("button.pause-run")
    page.locator(".status.paused").wait_for(timeout=120_000)
    page.reload()
    page.click("button.resume-run")
    page.locator(".status.running").wait_for()
    page.click("button.stop-run")
    page.locator(".status.stopped").wait_for(timeout=120_000)
    assert "Stopped on request" in page.locator(".reason").inner_text()
    assert page.locator("button.improve").is_enabled()

    page.select_option("select.preset", "quick")
    page.select_option("select.method", "pretrain")
    page.click("button.improve")  # without a text to learn from
    page.locator(".notice.error", has_text="path of the text").wait_for()
    page.select_option("select.method", "dpo")
    assert "without a reward model" in page.locator(".what").inner_text()
    assert page.locator(".text-path").is_hidden()
    page.click("button.improve")
    page.locator(".run-head h2", has_text="dpo").wait_for()
    page.locator(".status.finished").wait_for(timeout=200_000)
    assert page.locator(".charts svg").count() == 2
    page.get_by_role("link", name="Compare before and after").click()
    page.locator(".vote-left").wait_for()
