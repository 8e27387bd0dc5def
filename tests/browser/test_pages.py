"""Label, Models, Data and what all pages share, as a person uses them."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

import engine
from studio.pages import PAGES
from tests.browser.serve import CHROMIUM, FLAGS
from tests.browser.test_loop import ask

pytestmark = pytest.mark.browser

# Markup, scripts, templates, quoting, event handlers and direction marks. Each plants `stolen` if it runs.
HOSTILE = [
    "<img src=x onerror=\"window.stolen='img'\">",
    "<script>window.stolen='script'</script>",
    "${(() => { window.stolen = 'template' })()}",
    "{{constructor.constructor('window.stolen=1')()}}",
    "`${window.stolen='tick'}` and \\n \\\\ back\\slash",
    '"><svg onload="window.stolen=\'svg\'"> \'quoted\' "twice"',
    "javascript:window.stolen='link'",
    "\u202eright to left\u202c and שלום",
]


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


def test_a_ranking_on_its_way_when_the_page_is_left_is_kept(studio, page, tmp_path):
    page.goto(studio)
    page.locator(".empty").wait_for()
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
    assert held and not stored(tmp_path, "SELECT id FROM feedback")
    left.append(True)
    page.reload()
    page.locator(".card.ranked").nth(3).wait_for()
    (row,) = stored(tmp_path, "SELECT value FROM current_feedback")
    assert [len(tier) for tier in json.loads(row["value"])["tiers"]] == [1, 1, 1, 1]


def test_label_by_keys_alone(studio, page, tmp_path):
    page.goto(f"{studio}/label")
    page.locator(".item .card").nth(3).wait_for()
    first = page.locator(".item .ask").inner_text()
    rank_by_keys(page, "3", "1", "Shift+Digit2")
    assert "1 of 50" in page.locator(".pace").inner_text()
    ranking = json.loads(stored(tmp_path, "SELECT value FROM current_feedback")[0]["value"])["tiers"]
    assert [len(tier) for tier in ranking] == [1, 2, 1]

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


def test_enter_saves_a_ranking_in_the_frame_in_which_the_help_was_closed(studio, page):
    """The button of a dialog that is closed has the focus until the next frame; a slow machine's frames are long."""
    page.goto(f"{studio}/label")
    page.locator(".item .card").nth(3).wait_for()
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
    page.locator(".pace", has_text="1 of 50").wait_for()


def test_chat_keeps_all_that_is_said_of_an_answer(studio, page):
    page.goto(studio)
    page.locator(".empty").wait_for()
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


def test_what_is_being_written_outlives_the_page(studio, page, tmp_path):
    """A click elsewhere draws the cards anew, and a page is left by accident: neither loses a word."""
    page.goto(studio)
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

    page.goto(f"{studio}/label")
    page.locator(".item .card").nth(3).wait_for()
    page.keyboard.press("e")
    page.locator(".card.editing textarea").fill("Said better.")
    page.reload()
    page.locator(".card.editing textarea").wait_for()
    assert page.locator(".card.editing textarea").input_value() == "Said better."
    page.locator(".item button.rank").nth(1).click()
    page.click("button.next")  # which saves what is being rewritten too
    page.locator(".pace", has_text="1 of 50").wait_for()
    kept = stored(tmp_path, "SELECT kind, value FROM current_feedback ORDER BY id")
    assert [row["kind"] for row in kept] == ["rating", "edit", "edit", "ranking"]
    assert "Said better." in kept[2]["value"]


def test_data_comes_in_and_goes_out(studio, page, tmp_path):
    file = tmp_path / "prefs.jsonl"
    good = {"prompt": "Say hi.", "chosen": "Hello there!", "rejected": "No."}
    file.write_text(json.dumps(good) + "\n" + json.dumps({"prompt": "x"}) + "\n{broken\n")
    page.goto(f"{studio}/data")
    page.locator(".empty").wait_for()
    page.click(".bring")
    page.set_input_files(".file", file)
    page.locator(".figures-line", has_text="1 new, 0 already here, 2 not readable").wait_for()
    assert "Line 2" in page.locator(".problems").inner_text()
    page.click(".bring-in")
    page.locator(".entry", has_text="Say hi.").click()
    liked = page.locator(".entry .answer", has_text="Hello there!")
    assert "#1" in liked.inner_text()
    page.click(".entry .take-back")
    page.locator(".entry .take-back").wait_for(state="detached")
    assert "#1" not in liked.inner_text()
    page.click(".notice .bring-back")
    page.locator(".entry .take-back").wait_for()
    assert "#1" in liked.inner_text()
    page.fill(".search", "100% nothing like it")
    page.locator(".empty", has_text="Nothing matches").wait_for()
    page.fill(".search", "hello")
    page.locator(".entry", has_text="Say hi.").wait_for()
    page.select_option(".filter", "edited")
    page.locator(".empty").wait_for()
    page.select_option(".take", "preference")
    page.locator(".notice.show", has_text="1 line written").wait_for()
    (line,) = (tmp_path / "workspace" / "exports" / "preference.jsonl").read_text().splitlines()
    assert json.loads(line)["chosen"] == [{"role": "assistant", "content": "Hello there!"}]


def test_models_are_kept_in_order(studio, page, tmp_path):
    page.goto(f"{studio}/models")
    page.locator(".version.using", has_text="pocket").wait_for()
    page.click(".note")
    page.fill(".note-field", "where it all began")
    page.keyboard.press("Enter")
    page.locator(".note-text", has_text="where it all began").wait_for()
    page.fill(".folder", str(tmp_path))
    page.click(".add button")
    page.locator(".notice.error", has_text="holds no config.json").wait_for()
    page.click(".export")
    page.locator(".notice.show", has_text="pocket.zip").wait_for()
    assert (tmp_path / "workspace" / "exports" / "pocket.zip").stat().st_size > 1_000_000


def test_a_deleted_version_comes_back_until_the_trash_is_emptied(studio, page, tmp_path):
    workspace = engine.open_workspace(tmp_path / "workspace")
    store = engine.Store(workspace.database)
    made = engine.versions.add_version(store, "policy", engine.versions.newest_chat_version(store), None, {})
    engine.shelf.promote(store, engine.versions.list_versions(store, "base")[0]["id"])
    store.close()
    workspace.model(made).mkdir()
    (workspace.model(made) / "adapter_model.safetensors").write_bytes(b"x" * 2_000_000)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(f"{studio}/models")
    mine = page.locator(".version", has_text="round-1")
    mine.locator(".delete").click()
    mine.wait_for(state="detached")
    page.reload()
    page.click(".trash summary")
    page.click(".restore")
    mine.wait_for()
    mine.locator(".delete").click()
    page.locator(".trash", has_text="2.0 MB").wait_for()
    page.click(".empty-trash")
    page.locator(".trash").wait_for(state="hidden")
    assert not (workspace.folder / "trash").exists()


def hostile_store(folder):
    """A store in which every text that a person or a model can give is hostile."""
    workspace = engine.open_workspace(folder / "workspace")
    store = engine.Store(workspace.database)
    base = engine.find_base("pocket")
    version = engine.versions.ensure_base(store, str(base), engine.fingerprint(base), HOSTILE[0])
    for text in HOSTILE:
        talk = engine.conversations.start_conversation(store, text)
        prompt = engine.conversations.add_prompt(store, text, "chat", talk)
        answers = [{"text": text, "tokens": 1, "seed": 0, "finish": "stop"}] * 2
        one, two = engine.conversations.add_responses(store, prompt, version, {}, answers)
        engine.feedback_log.add_edit(store, one, text + " " + text)
        engine.feedback_log.add_tag(store, two, text[:40])
        engine.feedback_log.add_comment(store, two, text)
    other = store.insert(
        "model_versions", name=HOSTILE[1], kind="policy", parent_id=version, base=str(base),
        base_fingerprint="x", created="2026-01-01T00:00:00+00:00", note=HOSTILE[5],
    )  # fmt: skip
    items = [{"prompt": text, "before": text, "after": f"{text} {text}", "facts": {}} for text in HOSTILE]
    result = {"prompts": 8, "kl": 1, "length_before": 1, "length_after": 2, "distinct_before": 8, "distinct_after": 8}
    engine.comparisons.add_comparison(store, version, other, items, result)
    store.close()


@pytest.fixture
def hostile_studio(tmp_path, request):
    hostile_store(tmp_path)
    return request.getfixturevalue("studio")


def test_hostile_text_is_shown_as_it_is_and_runs_nothing(hostile_studio, page):
    shown = {}
    for name, (_, path) in PAGES.items():
        page.goto(hostile_studio + path)
        page.locator(".studio").wait_for()
        page.wait_for_timeout(1500)
        shown[name] = page.locator(".studio").evaluate("e => e.textContent")
        assert page.evaluate("window.stolen") is None
    assert all(text in shown["data"] and text in shown["chat"] for text in HOSTILE)  # chat: as titles
    assert HOSTILE[0] in shown["models"] and HOSTILE[1] in shown["models"] and HOSTILE[5] in shown["models"]
    page.goto(hostile_studio)
    for text in HOSTILE:
        page.locator(".conversation").get_by_text(text, exact=True).click()
        page.wait_for_function("t => document.querySelector('.turn .ask')?.textContent === t", arg=text)
        words = [e.evaluate("e => e.textContent") for e in page.locator(".turn .card .text").all()]
        assert words[1] == text and words[0] == f"{text} {text}"
        assert page.locator(".comment").evaluate("e => e.textContent") == text
        assert page.locator(".tags .tag").evaluate("e => e.textContent") == text[:40].strip()
    page.goto(f"{hostile_studio}/compare")
    page.locator(".vote-left").wait_for()
    page.click(".voted summary")
    page.click(".reveal button")
    page.locator(".items tr").nth(7).wait_for()
    cells = page.locator(".items").evaluate("e => e.textContent")
    assert all(text in cells for text in HOSTILE)
    with page.expect_download() as download:
        page.click(".save-report")
    page.set_content(download.value.path().read_text("utf-8"))
    report = page.locator("table").evaluate("e => e.textContent")
    assert all(text in report for text in HOSTILE)
    assert page.evaluate("window.stolen") is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_accessibility_finding(looked_at, page, theme):
    page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    for _, path in PAGES.values():
        page.goto(looked_at + path)
        page.locator(".studio").wait_for()
        page.wait_for_timeout(1200)
        found = Axe().run(page, context=".studio").response["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not grave, [(path, v["id"], v["nodes"][0]["html"], v["nodes"][0]["failureSummary"]) for v in grave]


def test_every_page_speaks_chinese_and_fits_a_telephone(looked_at, page):
    page.add_init_script("localStorage.setItem('language', 'zh')")
    page.set_viewport_size({"width": 390, "height": 800})
    english = re.compile(r"\b(?:the|answers?|questions?|settings?|feedback|nothing|model)\b", re.IGNORECASE)
    for _, path in PAGES.values():
        page.goto(looked_at + path)
        page.locator(".studio").wait_for()
        page.wait_for_timeout(1200)
        chrome = page.locator(".studio").evaluate(
            "e => { const c = e.cloneNode(true);"
            " c.querySelectorAll('.item, .entry, .settings, [lang=en]').forEach(x => x.remove());"
            " return c.textContent }"
        )
        assert re.search("[\u4e00-\u9fff]", chrome)
        assert not english.search(chrome.replace("RLHF Studio", "")), (path, english.search(chrome))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_the_studio_comes_back_where_it_was(studio, page, tmp_path):
    """A second tab sees what the first did, and what is typed survives a reload."""
    page.goto(f"{studio}/label")
    page.locator(".item .card").nth(3).wait_for()
    rank_by_keys(page, "1")
    second = page.context.new_page()
    second.goto(f"{studio}/label")
    second.locator(".item .card").nth(3).wait_for()
    assert "1 of 50" in second.locator(".pace").inner_text()
    second.goto(studio)
    second.locator(".composer textarea").wait_for()
    second.fill(".composer textarea", "half a question")
    second.reload()
    second.wait_for_function("document.querySelector('.composer textarea')?.value === 'half a question'")
    second.close()


def test_nothing_is_asked_of_any_other_machine(looked_at, driver, tmp_path):
    """By Chromium's own network log: every address that was asked for on behalf of the page.

    Chromium's own services (the time, its accounts) ask for more, whatever the page; what they ask is left out.
    """
    log = tmp_path / "net.json"
    own = "--disable-features=AutofillServerCommunication"  # of every page that has a field to fill in
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, own, f"--log-net-log={log}"])
    opened = browser.new_page()
    for _, path in PAGES.values():
        opened.goto(looked_at + path)
        opened.locator(".studio .device", has_text="GB").wait_for()
    opened.evaluate("fetch('http://192.0.2.1/planted').catch(() => 0)")  # an address that leads nowhere
    browser.close()
    requests = [e["params"] for e in json.loads(log.read_text())["events"] if "url" in e.get("params", {})]
    ours = [r for r in requests if "http://127.0.0.1" in f"{r.get('initiator')} {r.get('network_isolation_key')}"]
    asked = {r["url"] for r in ours}
    assert f"{looked_at}/" in asked and f"{looked_at}/label" in asked
    elsewhere = {url for url in asked if not url.startswith((f"{looked_at}/", f"ws{looked_at[4:]}/", "data:", "blob:"))}
    assert elsewhere == {"http://192.0.2.1/planted"}  # the log does see what goes elsewhere, and there is nothing else
