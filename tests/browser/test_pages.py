"""What holds of every page: text stays text, it can be read and reached, and it comes back where it was."""

import io
import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

import engine
from studio.pages import PAGES
from tests.browser.acts import labelled, rank_by_keys
from tests.browser.serve import CHROMIUM, FLAGS

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
def test_no_serious_accessibility_finding(shared, page, theme):
    page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    for _, path in PAGES.values():
        page.goto(shared + path)
        page.locator(".studio").wait_for()
        page.wait_for_timeout(1200)
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme  # of scroll bars
        found = Axe().run(page, context=".studio").response["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not grave, [(path, v["id"], v["nodes"][0]["html"], v["nodes"][0]["failureSummary"]) for v in grave]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_tick_can_be_seen(shared, page, theme):
    page.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    page.goto(f"{shared}/train")
    page.locator(".studio").wait_for()
    page.wait_for_timeout(1200)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    box = page.locator(".one-setting input[type=checkbox]").first
    ticked, empty = (_pixels(box, on) for on in (True, False))
    assert sum(abs(a - b) > 60 for a, b in zip(ticked, empty, strict=True)) > 120  # of 256 red, green and blue


def _pixels(box, on) -> bytes:
    """The colours of a box to tick, put `on` or off, with nothing that comes of being in focus or pointed at."""
    box.set_checked(on)
    box.blur()
    box.page.mouse.move(0, 0)
    return Image.open(io.BytesIO(box.screenshot())).convert("RGB").tobytes()


def test_every_page_speaks_chinese_and_fits_a_telephone(shared, page):
    page.add_init_script("localStorage.setItem('language', 'zh')")
    page.set_viewport_size({"width": 390, "height": 800})
    english = re.compile(r"\b(?:the|answers?|questions?|settings?|feedback|nothing|model)\b", re.IGNORECASE)
    for _, path in PAGES.values():
        page.goto(shared + path)
        page.locator(".studio").wait_for()
        page.wait_for_timeout(1200)
        chrome = page.locator(".studio").evaluate(
            "e => { const c = e.cloneNode(true);"
            " c.querySelectorAll('.item, .ask, .entry, .settings, [lang=en]').forEach(x => x.remove());"
            " return c.textContent }"
        )
        assert re.search("[\u4e00-\u9fff]", chrome)
        assert not english.search(chrome.replace("RLHF Studio", "")), (path, english.search(chrome))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_the_studio_comes_back_where_it_was(shared, page):
    """A second tab sees what the first did, and what is typed survives a reload."""
    page.goto(f"{shared}/label")
    page.locator(".item .card").nth(3).wait_for()
    done = labelled(page)
    rank_by_keys(page, "1")
    second = page.context.new_page()
    second.goto(f"{shared}/label")
    second.locator(".item .card").nth(3).wait_for()
    assert labelled(second) == done + 1
    second.goto(shared)
    second.locator(".composer textarea").wait_for()
    second.fill(".composer textarea", "half a question")
    second.reload()
    second.wait_for_function("document.querySelector('.composer textarea')?.value === 'half a question'")
    second.close()


def test_nothing_is_asked_of_any_other_machine(shared, driver, tmp_path):
    """By Chromium's own network log: every address that was asked for on behalf of the page.

    Chromium's own services (the time, its accounts) ask for more, whatever the page; what they ask is left out.
    """
    log = tmp_path / "net.json"
    own = "--disable-features=AutofillServerCommunication"  # of every page that has a field to fill in
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, own, f"--log-net-log={log}"])
    opened = browser.new_page()
    for _, path in PAGES.values():
        opened.goto(shared + path)
        opened.locator(".studio .device", has_text="GB").wait_for()
    opened.evaluate("fetch('http://192.0.2.1/planted').catch(() => 0)")  # an address that leads nowhere
    browser.close()
    requests = [e["params"] for e in json.loads(log.read_text())["events"] if "url" in e.get("params", {})]
    ours = [r for r in requests if "http://127.0.0.1" in f"{r.get('initiator')} {r.get('network_isolation_key')}"]
    asked = {r["url"] for r in ours}
    assert f"{shared}/" in asked and f"{shared}/label" in asked
    elsewhere = {url for url in asked if not url.startswith((f"{shared}/", f"ws{shared[4:]}/", "data:", "blob:"))}
    assert elsewhere == {"http://192.0.2.1/planted"}  # the log does see what goes elsewhere, and there is nothing else
