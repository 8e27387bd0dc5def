"""A workspace without room: one sentence on the page, and nothing that was kept before is lost."""

import pytest

import engine
from studio.pages import chat
from studio.session import DISK_FULL, Session, friendly


@pytest.fixture
def session(tmp_path):
    made = Session(engine.open_workspace(tmp_path / "workspace"))
    yield made
    made.store.close()


@pytest.fixture
def actions(session, monkeypatch):
    """Chat's server functions by name, as the page calls them."""
    found = {}
    monkeypatch.setattr(
        chat, "page", lambda name, skeleton, functions, s: found.update({f.__name__: f for f in functions})
    )
    chat.build(session)
    return {name: friendly(function) for name, function in found.items()}


def test_a_full_disk_is_said_in_a_sentence_and_takes_nothing(session, actions):
    store = session.store
    prompt = engine.conversations.add_prompt(store, "How do I make tea?", "chat")
    answers = [{"text": "With hot water.", "tokens": 4, "seed": 0, "finish": "stop"}]
    (response,) = engine.conversations.add_responses(store, prompt, session.version["id"], {}, answers)
    assert actions["comment"]([response, "Kept."]) == {}
    # SQLite's own way to have no more room: the file may not grow.
    store.connection.execute(f"PRAGMA max_page_count = {store.rows('PRAGMA page_count')[0]['page_count']}")
    assert actions["comment"]([response, "long " * 10_000]) == {"error": DISK_FULL}
    assert [f["value"]["text"] for f in engine.feedback_log.current(store, prompt)] == ["Kept."]

    store.connection.execute("PRAGMA max_page_count = 1000000")
    assert actions["comment"]([response, "long " * 10_000]) == {}
    assert len(engine.feedback_log.current(store, prompt)[0]["value"]["text"]) > 40_000
