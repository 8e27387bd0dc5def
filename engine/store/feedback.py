"""Feedback: appended, never changed. `current` is what stands now."""

import json

from engine.errors import UserError
from engine.store.db import Store, now


def add_ranking(store: Store, prompt_id: int, tiers: list[list[int]], annotator: str = "person") -> int:
    """Keep an order of responses, best tier first; responses in one tier are tied."""
    ids = [response for tier in tiers for response in tier]
    known = {r["id"] for r in store.rows("SELECT id FROM responses WHERE prompt_id = ?", prompt_id)}
    if len(set(ids)) != len(ids) or not set(ids) <= known:
        raise UserError("A ranking must name answers to its own prompt, each once. Rank the answers again.")
    return _add(store, "ranking", prompt_id, None, {"tiers": tiers}, annotator)


def add_rating(store: Store, response_id: int, score: float, annotator: str = "person") -> int:
    """Keep a rating from 1 to 5; a thumb up is 5, a thumb down 1."""
    if not 1 <= score <= 5:
        raise UserError("A rating goes from 1 to 5.")
    return _add(store, "rating", _prompt_of(store, response_id), response_id, {"score": score}, annotator)


def add_edit(store: Store, response_id: int, text: str, annotator: str = "person") -> int:
    """Keep a rewritten response."""
    if not text.strip():
        raise UserError("An edited answer cannot be empty. Write what the answer should have said.")
    return _add(store, "edit", _prompt_of(store, response_id), response_id, {"text": text.strip()}, annotator)


def unrate(store: Store, response_id: int, annotator: str = "person") -> None:
    """Take back the rating of a response, if it has one."""
    rated = store.row(
        "SELECT id FROM current_feedback WHERE kind = 'rating' AND response_id = ? AND annotator = ?",
        response_id,
        annotator,
    )
    if rated:
        take_back(store, rated["id"])


TAGS = ("helpful", "wrong", "rude", "too long", "too short", "off topic", "unsafe")  # offered; others may be given


def add_tag(store: Store, response_id: int, tag: str, annotator: str = "person") -> int:
    """Mark a response with a word or two."""
    if not tag.strip():
        raise UserError("A tag cannot be empty.")
    return _add(store, "tag", _prompt_of(store, response_id), response_id, {"tag": tag.strip()[:40]}, annotator)


def add_comment(store: Store, response_id: int, text: str, annotator: str = "person") -> int:
    """Keep a remark on a response, for people to read; no method learns from it."""
    if not text.strip():
        raise UserError("A comment cannot be empty.")
    return _add(store, "comment", _prompt_of(store, response_id), response_id, {"text": text.strip()}, annotator)


def take_back(store: Store, feedback_id: int) -> None:
    """Undo a piece of feedback with all that it took the place of, so that no former mind stands instead."""
    row = store.row("SELECT * FROM standing_feedback WHERE id = ?", feedback_id)
    if row is None:
        raise UserError("That was taken back already.")
    same = ("kind", "prompt_id", "response_id", "annotator", "id", "value")
    for former in store.rows(
        "SELECT * FROM standing_feedback WHERE kind = ? AND prompt_id = ? AND response_id IS ? AND annotator = ? "
        "AND id <= ? AND (kind != 'tag' OR value = ?) ORDER BY id",
        *(row[name] for name in same),
    ):
        _undo(store, former)


def bring_back(store: Store, feedback_id: int) -> int:
    """Give once more what was taken back: as a new row, for feedback is only ever added to."""
    row = store.row("SELECT * FROM feedback WHERE id = ? AND kind != 'undo'", feedback_id)
    if row is None:
        raise UserError("There is nothing to bring back.")
    return _add(store, row["kind"], row["prompt_id"], row["response_id"], json.loads(row["value"]), row["annotator"])


def undo(store: Store, annotator: str = "person") -> dict | None:
    """Take back the newest feedback that stands; returns it, or None where there is nothing to take back."""
    last = store.row("SELECT * FROM standing_feedback WHERE annotator = ? ORDER BY id DESC LIMIT 1", annotator)
    if last is None:
        return None
    _undo(store, last)
    return last


def _undo(store: Store, row: dict) -> None:
    store.insert(
        "feedback", kind="undo", prompt_id=row["prompt_id"], value={}, undoes=row["id"],
        annotator=row["annotator"], created=now(),
    )  # fmt: skip


def current(store: Store, prompt_id: int | None = None) -> list[dict]:
    """Feedback as it stands, oldest first, with `value` parsed."""
    where = "WHERE prompt_id = ?" if prompt_id is not None else ""
    values = () if prompt_id is None else (prompt_id,)
    found = store.rows(f"SELECT * FROM current_feedback {where} ORDER BY id", *values)
    return [{**row, "value": json.loads(row["value"])} for row in found]


def judged_twice(store: Store, most: int = 1_000_000) -> list[tuple[dict[int, float], dict[int, float]]]:
    """Rankings of one prompt by one annotator that follow each other, as ({response: rank}, the same later).

    Of the newest `most` rankings.
    """
    rows = store.rows(
        "SELECT * FROM (SELECT * FROM standing_feedback WHERE kind = 'ranking' ORDER BY id DESC LIMIT ?) "
        "ORDER BY prompt_id, annotator, id",
        most,
    )
    ranks = [
        {response: float(rank) for rank, tier in enumerate(json.loads(row["value"])["tiers"]) for response in tier}
        for row in rows
    ]
    return [
        (ranks[i], ranks[i + 1])
        for i in range(len(rows) - 1)
        if all(rows[i][key] == rows[i + 1][key] for key in ("prompt_id", "annotator"))
    ]


def counts(store: Store) -> dict[str, int]:
    """How much feedback of each kind stands, and on how many prompts."""
    found = {"ranking": 0, "edit": 0, "rating": 0}
    for row in store.rows("SELECT kind, count(*) AS n FROM current_ids GROUP BY kind"):
        found[row["kind"]] = row["n"]
    found["prompts"] = store.rows("SELECT count(DISTINCT prompt_id) AS n FROM current_ids")[0]["n"]
    return found


def compared(store: Store) -> int:
    """How many rankings and edits stand: what a reward model learns most from."""
    found = counts(store)
    return found["ranking"] + found["edit"]


def longest_judged(store: Store) -> int:
    """Tokens of the longest answer to a question of which something was said; 0 where there is none by a model."""
    row = store.row("SELECT max(tokens) AS n FROM responses WHERE prompt_id IN (SELECT prompt_id FROM current_ids)")
    return int(row["n"] or 0) if row else 0


def _prompt_of(store: Store, response_id: int) -> int:
    row = store.row("SELECT prompt_id FROM responses WHERE id = ?", response_id)
    if row is None:
        raise UserError(f"There is no response {response_id}.")
    return row["prompt_id"]


def _add(store: Store, kind: str, prompt_id: int, response_id: int | None, value: dict, annotator: str) -> int:
    return store.insert(
        "feedback",
        kind=kind,
        prompt_id=prompt_id,
        response_id=response_id,
        value=value,
        annotator=annotator,
        created=now(),
    )
