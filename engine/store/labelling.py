"""The queue of the Label page: prompts of a set with answers to rank. All of it lies in the store.

An item is a prompt whose source is "label:SET:VERSION". It is open until it is ranked or skipped; skipping is a tag, so
that undo brings it back.
"""

import json
from datetime import datetime
from itertools import combinations, pairwise
from math import exp

from engine.store.conversations import responses_of
from engine.store.db import Store, now

SKIPPED = {"tag": "skipped"}

_OPEN = (
    "SELECT p.* FROM prompts p WHERE p.source = ? AND NOT EXISTS (SELECT 1 FROM current_ids c JOIN feedback f "
    "ON f.id = c.id WHERE c.prompt_id = p.id AND (c.kind = 'ranking' OR (c.kind = 'tag' AND f.value = ?))) "
    "AND EXISTS (SELECT 1 FROM responses r WHERE r.prompt_id = p.id) ORDER BY p.id LIMIT ?"
)
_GIVEN = "FROM standing_feedback f JOIN prompts p ON p.id = f.prompt_id WHERE f.kind = 'ranking' AND p.source = ?"


def source_of(prompt_set: str, version: int) -> str:
    """A queue is of a prompt set and the model version that answers: a new version's answers are to be judged anew."""
    return f"label:{prompt_set}:{version}"


def open_items(store: Store, source: str, limit: int = 20) -> list[dict]:
    """Answered prompts that wait for a ranking, oldest first, each with its responses."""
    rows = store.rows(_OPEN, source, json.dumps(SKIPPED), limit)
    return [{**row, "responses": responses_of(store, row["id"])} for row in rows]


def asked(store: Store, source: str) -> set[str]:
    """The texts of the set that are items already, open or done."""
    return {row["text"] for row in store.rows("SELECT text FROM prompts WHERE source = ?", source)}


def skip(store: Store, prompt_id: int) -> int:
    return store.insert("feedback", kind="tag", prompt_id=prompt_id, value=SKIPPED, created=now())


def done(store: Store, source: str) -> int:
    """How many of a source's items are ranked; one that was ranked twice counts once."""
    return store.rows(
        "SELECT count(DISTINCT p.id) AS n FROM prompts p JOIN current_ids c ON c.prompt_id = p.id AND "
        "c.kind = 'ranking' WHERE p.source = ?",
        source,
    )[0]["n"]


def recent(store: Store, source: str, limit: int = 40) -> list[dict]:
    """The newest rankings of a source's items that stand, newest first: prompt_id, created."""
    return store.rows(f"SELECT f.prompt_id, f.created {_GIVEN} ORDER BY f.id DESC LIMIT ?", source, limit)


def due_again(store: Store, source: str, every: int = 10, apart: int = 5) -> int | None:
    """The prompt to ask about once more, or None: one of every `every` rankings is of an earlier item, for measuring
    how far a person agrees with themselves. It lies at least `apart` rankings back and was ranked once so far."""
    newest = recent(store, source)
    if len(newest) < every:
        return None

    def times(prompt: int) -> int:
        sql = "SELECT count(*) AS n FROM standing_feedback WHERE prompt_id = ? AND kind = 'ranking'"
        return store.rows(sql, prompt)[0]["n"]

    if any(times(row["prompt_id"]) > 1 for row in newest[:every]):
        return None
    near = {row["prompt_id"] for row in newest[:apart]}
    older = [row["prompt_id"] for row in reversed(newest[apart:]) if row["prompt_id"] not in near]
    return next((prompt for prompt in older if times(prompt) == 1), None)


def pace(store: Store, source: str, idle: float = 120.0) -> float | None:
    """Seconds a ranking takes, the median of the last twenty; pauses longer than `idle` do not count."""
    times = [datetime.fromisoformat(row["created"]).timestamp() for row in reversed(recent(store, source, 21))]
    gaps = sorted(b - a for a, b in pairwise(times) if 0 < b - a < idle)
    return gaps[len(gaps) // 2] if gaps else None


def doubt(scores: list[float], texts: list[str]) -> float:
    """How unsure a reward model is of the order of these answers, 0 to 1: the mean of 4 p (1 - p) over all pairs, p the
    Bradley-Terry probability that one beats the other. What it is least sure of tells it most (uncertainty sampling,
    Lewis and Gale 1994); of two answers that say the same there is nothing to be told.
    """
    both = list(combinations(zip(scores, texts, strict=True), 2))
    chances = [1 / (1 + exp(-max(-30.0, min(30.0, a - b)))) if x != y else 1.0 for (a, x), (b, y) in both]
    return sum(4 * p * (1 - p) for p in chances) / len(both) if both else 0.0
