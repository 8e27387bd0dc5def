"""Conversations, prompts and responses."""

from engine.errors import UserError
from engine.store.db import Store, insert, like, now

Message = dict[str, str]


def start_conversation(store: Store, title: str) -> int:
    return store.insert("conversations", title=title.strip()[:80] or "New conversation", created=now())


def list_conversations(store: Store, search: str = "", limit: int = 100) -> list[dict]:
    """Conversations, newest first; with `search`, those whose title or questions hold it."""
    found = like(search.strip())
    return store.rows(
        "SELECT * FROM conversations c WHERE deleted IS NULL AND (title LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 "
        "FROM prompts p WHERE p.conversation_id = c.id AND p.text LIKE ? ESCAPE '\\')) ORDER BY id DESC LIMIT ?",
        found, found, limit,
    )  # fmt: skip


def rename_conversation(store: Store, conversation_id: int, title: str) -> None:
    if not title.strip():
        raise UserError("A conversation needs a title.")
    store.update("conversations", conversation_id, title=title.strip()[:80])


def delete_conversation(store: Store, conversation_id: int, deleted: bool = True) -> None:
    """Hide a conversation, or bring it back. Its feedback stays: what was learned from it has to stay told."""
    store.update("conversations", conversation_id, deleted=now() if deleted else None)


def add_prompt(
    store: Store, text: str, source: str, conversation_id: int | None = None, parent_response_id: int | None = None
) -> int:
    return store.insert(
        "prompts",
        conversation_id=conversation_id,
        parent_response_id=parent_response_id,
        text=text,
        source=source,
        created=now(),
    )


def add_responses(
    store: Store, prompt_id: int, model_version_id: int, sampling: dict, answers: list[dict]
) -> list[int]:
    """Keep answers {"text", "tokens", "seed", "finish"} to one prompt, all or none; returns their ids."""
    with store.writing() as connection:
        return [
            insert(
                connection,
                "responses",
                prompt_id=prompt_id,
                model_version_id=model_version_id,
                sampling=sampling,
                created=now(),
                **{key: a[key] for key in ("text", "tokens", "seed", "finish")},
            )
            for a in answers
        ]


def responses_of(store: Store, prompt_id: int) -> list[dict]:
    return store.rows("SELECT * FROM responses WHERE prompt_id = ? ORDER BY id", prompt_id)


def turns(store: Store, conversation_id: int) -> list[dict]:
    """The prompts of a conversation in order, each with its responses."""
    prompts = store.rows("SELECT * FROM prompts WHERE conversation_id = ? ORDER BY id", conversation_id)
    return [{**p, "responses": responses_of(store, p["id"])} for p in prompts]


def get_prompt(store: Store, prompt_id: int) -> dict:
    row = store.row("SELECT * FROM prompts WHERE id = ?", prompt_id)
    if row is None:
        raise UserError("That question is no longer there. Reload the page.")
    return row


def imported_prompts(store: Store) -> list[str]:
    """The texts of the questions that were brought in from files and open no conversation here."""
    rows = store.rows(
        "SELECT DISTINCT text FROM prompts WHERE source LIKE 'import%' AND parent_response_id IS NULL ORDER BY id"
    )
    return [row["text"] for row in rows]


def unjudged_questions(store: Store) -> list[str]:
    """The questions that the person asked or brought in to open a conversation and of which nothing was said."""
    rows = store.rows(
        "SELECT DISTINCT text FROM prompts WHERE (source = 'chat' OR source LIKE 'import:%') "
        "AND parent_response_id IS NULL AND text NOT IN "
        "(SELECT p.text FROM prompts p JOIN current_ids c ON c.prompt_id = p.id) ORDER BY id"
    )
    return [row["text"] for row in rows]


def context_of(store: Store, prompt_id: int) -> list[Message]:
    """The messages up to and with a prompt: what a model was, or is to be, shown."""
    messages: list[Message] = []
    prompt = store.row("SELECT * FROM prompts WHERE id = ?", prompt_id)
    while prompt:
        messages.insert(0, {"role": "user", "content": prompt["text"]})
        parent = store.row("SELECT * FROM responses WHERE id = ?", prompt["parent_response_id"])
        if parent is None:
            break
        messages.insert(0, {"role": "assistant", "content": shown_text(store, parent)})
        prompt = store.row("SELECT * FROM prompts WHERE id = ?", parent["prompt_id"])
    return messages


def shown_text(store: Store, response: dict) -> str:
    """A response as the person left it: their edit where there is one."""
    edit = store.row(
        "SELECT json_extract(value, '$.text') AS text FROM current_feedback WHERE kind = 'edit' AND response_id = ? "
        "ORDER BY id DESC",
        response["id"],
    )
    return edit["text"] if edit else response["text"]


def own_prompts(store: Store) -> list[list[Message]]:
    """The context of every prompt the person wrote or brought in, newest first."""
    ids = store.rows("SELECT id FROM prompts ORDER BY id DESC")
    return [context_of(store, row["id"]) for row in ids]
