"""What a person does on the page, and what is in the store then."""

import engine


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


def stored(studio_folder, sql, *values):
    store = engine.Store(studio_folder / "workspace" / "studio.db")
    try:
        return store.rows(sql, *values)
    finally:
        store.close()
