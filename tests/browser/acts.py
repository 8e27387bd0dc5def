"""What a person does on the page, and what is in the store then."""

import engine


def open_chat(page, address):
    """Chat with no conversation open, whatever was said there before."""
    page.goto(address)
    page.locator(".turn, .empty").first.wait_for()
    page.click("button.new")
    page.locator(".empty").wait_for()


def ask(page, question):
    turns = page.locator(".turn").count()
    page.fill(".composer textarea", question)
    page.keyboard.press("Enter")
    page.wait_for_function("n => document.querySelectorAll('.turn').length === n", arg=turns + 1)
    page.locator(".turn").last.locator("button.rank").nth(3).wait_for()


def rank_by_keys(page, *keys):
    """Rank the item on the screen and wait for the next."""
    before = page.locator(".item").get_attribute("data-item")
    for key in keys:
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_function("id => !['', id].includes(document.querySelector('.item').dataset.item)", arg=before)


def labelled(page) -> int:
    """How many items the page says are labelled."""
    return int(page.locator(".pace").inner_text().split()[0])


def newest_feedback(studio_folder) -> int:
    return stored(studio_folder, "SELECT coalesce(max(id), 0) AS id FROM feedback")[0]["id"]


def stored(studio_folder, sql, *values):
    store = engine.Store(studio_folder / "workspace" / "studio.db")
    try:
        return store.rows(sql, *values)
    finally:
        store.close()
