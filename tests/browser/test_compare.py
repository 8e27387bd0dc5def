"""Compare: voting blind, as a person does it."""

import pytest

import engine

pytestmark = pytest.mark.browser


@pytest.fixture
def compared(shared_folder):
    """Add a comparison of (question, before, after), with which the page then begins; returns what gives its votes."""
    store = engine.Store(shared_folder / "workspace" / "studio.db")

    def add(*texts):
        pocket = engine.versions.newest_chat_version(store)["id"]
        items = [
            {"prompt": prompt, "before": before, "after": after, "facts": {"seed": n, "kl": 1.0}}
            for n, (prompt, before, after) in enumerate(texts)
        ]
        lengths = {"length_before": 2, "length_after": 2}
        distinct = {"distinct_before": len(items), "distinct_after": len(items)}
        result = {"prompts": len(items), "kl": 1.0, **lengths, **distinct}
        added = engine.comparisons.add_comparison(store, pocket, pocket, items, result)
        return lambda: store.rows(
            "SELECT v.choice FROM votes v JOIN comparison_items i ON i.id = v.item_id WHERE i.comparison_id = ?", added
        )

    yield add
    store.close()


@pytest.fixture
def three(shared, page, compared):
    """The page on a comparison of three questions: what is asked there, and what gives the votes so far."""
    votes = compared(*[(f"Question {n}", f"before {n}", f"after {n}") for n in range(3)])
    page.goto(f"{shared}/compare")
    asked = page.locator(".ballot .ask")
    asked.get_by_text("Question 0").wait_for()
    return asked, votes


def test_versions_that_answer_alike_leave_nothing_to_vote_on(shared, page, compared):
    compared(("Hello", "Hi there.", "Hi there."))
    page.goto(f"{shared}/compare")
    page.locator(".empty", has_text="nothing to vote on").wait_for()
    assert "vote blind" not in page.locator(".figures").inner_text()


def test_skip_never_leads_to_a_question_that_a_saved_report_shows(page, three):
    asked, _ = three
    page.keyboard.press("ArrowLeft")
    asked.get_by_text("Question 1").wait_for()
    page.keyboard.press("z")
    asked.get_by_text("Question 0").wait_for()
    with page.expect_download() as download:
        page.click(".save-report")
    assert "before 0" in download.value.path().read_text("utf-8"), "its vote stands until it is given anew"
    asked.get_by_text("Question 1").wait_for()
    seen = []
    for _ in range(4):
        seen.append(asked.inner_text())
        page.keyboard.press("s")
    assert seen == ["Question 1", "Question 2"] * 2


def test_keys_pressed_before_a_vote_is_kept_do_not_pass_over_a_question(page, three):
    asked, votes = three
    press = """keys => keys.forEach(key => document.dispatchEvent(new KeyboardEvent("keydown", { key })))"""
    page.evaluate(press, ["ArrowLeft", "ArrowLeft", "s"])
    asked.get_by_text("Question 1").wait_for()
    page.wait_for_timeout(300)  # a second vote would be counted, and would go on to the next question, by now
    assert asked.inner_text() == "Question 1"
    assert len(votes()) == 1


def test_a_key_held_down_votes_once_and_does_not_scroll(page, three):
    asked, votes = three
    page.set_viewport_size({"width": 900, "height": 300})
    for _ in range(3):
        page.keyboard.down("ArrowDown")  # the second and third are repeats
    asked.get_by_text("Question 1").wait_for()
    page.wait_for_timeout(300)
    assert [asked.inner_text(), page.evaluate("scrollY")] == ["Question 1", 0]
    assert [vote["choice"] for vote in votes()] == ["tie"]


def test_caps_lock_changes_no_key(page, three):
    asked, _ = three
    page.keyboard.press("S")
    asked.get_by_text("Question 1").wait_for()
