"""The queue of the Label page: prompts of a set with answers to rank. All of it lies in the store.

An item is a prompt whose source is "label:SET". It is open until it is ranked or skipped; skipping is a tag, so that
undo brings it back.
"""

import json
from datetime import datetime
from itertools import pairwise
from math import exp

from engine.store.conversations import responses_of
from engine.store.db import Store, now

SKIPPED = {"tag": "skipped"}

_OPEN = (
    "SELECT p.* FROM prompts p WHERE p.source = ? AND EXISTS (SELECT 1 FROM responses r WHERE r.prompt_id = p.id) "
    "AND NOT EXISTS (SELECT 1 FROM standing_feedback f WHERE f.prompt_id = p.id AND (f.kind = 'ranking' "
    "OR (f.kind = 'tag' AND f.value = ?))) ORDER BY p.id LIMIT ?"
)


def source_of(prompt_set: str) -> str:
    return f"label:{prompt_set}"


def open_items(store: Store, source: str, limit: int = 20) -> list[dict]:
    """Answered prompts that wait for a ranking, oldest first, each with its responses."""
    rows = store.rows(_OPEN, source, json.dumps(SKIPPED), limit)
    return [{**row, "responses": responses_of(store, row["id"])} for row in rows]


def asked(store: Store, source: str) -> set[str]:
    """The texts of the set that are items already, open or done."""
    return {row["text"] for row in store.rows("SELECT text FROM prompts WHERE source = ?", source)}


def skip(store: Store, prompt_id: int) -> int:
    return store.insert("feedback", kind="tag", prompt_id=prompt_id, value=SKIPPED, created=now())


def ranked(store: Store, source: str) -> list[dict]:
    """The rankings of a source's items that stand, in the order they were given: prompt_id, created, value."""
    rows = store.rows(
        "SELECT f.id, f.prompt_id, f.created, f.value FROM prompts p JOIN standing_feedback f ON f.prompt_id = p.id "
        "WHERE p.source = ? AND f.kind = 'ranking' AND f.annotator = 'person' ORDER BY f.id",
        source,
    )
    return [{**row, "value": json.loads(row["value"])} for row in rows]


def due_again(rankings: list[dict], every: int = 10, apart: int = 5) -> int | None:
    """The prompt to ask about once more, or None: one of every `every` items is an earlier one, for measuring how far
    a person agrees with themselves. It lies at least `apart` items back and was ranked once so far."""
    times: dict[int, int] = {}
    for row in rankings:
        times[row["prompt_id"]] = times.get(row["prompt_id"], 0) + 1
    repeats = sum(count > 1 for count in times.values())
    if len(times) < every * (repeats + 1):
        return None
    recent = {row["prompt_id"] for row in rankings[-apart:]}
    return next((prompt for prompt, count in times.items() if count == 1 and prompt not in recent), None)


def pace(rankings: list[dict], idle: float = 120.0) -> float | None:
    """Seconds a ranking takes, the median of the last twenty; pauses longer than `idle` do not count."""
    times = [datetime.fromisoformat(row["created"]).timestamp() for row in rankings[-21:]]
    gaps = sorted(b - a for a, b in pairwise(times) if 0 < b - a < idle)
    return gaps[len(gaps) // 2] if gaps else None


def doubt(scores: list[float]) -> float:
    """How unsure a reward model is of the order of these scores, 0 to 1: the mean of 4 p (1 - p) over all pairs,
    p the Bradley-Terry probability that one beats the other. What it is least sure of tells it most (uncertainty
    sampling, Lewis and Gale 1994)."""
    pairs = [(a, b) for i, a in enumerate(scores) for b in scores[i + 1 :]]
    chances = [1 / (1 + exp(-max(-30.0, min(30.0, a - b)))) for a, b in pairs]
    return sum(4 * p * (1 - p) for p in chances) / len(pairs) if pairs else 0.0
