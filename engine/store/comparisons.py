"""Comparisons of two model versions on the same prompts, and the votes on them."""

import json

from engine.errors import UserError
from engine.store.db import Store, insert, now


def add_comparison(
    store: Store, before_id: int, after_id: int, items: list[dict], result: dict, run_id: int | None = None
) -> int:
    """Keep a comparison whole; each item is {"prompt", "before", "after", "facts"}."""
    with store.writing() as connection:
        comparison = insert(
            connection,
            "comparisons",
            before_id=before_id,
            after_id=after_id,
            run_id=run_id,
            result=result,
            created=now(),
        )
        for item in items:
            insert(connection, "comparison_items", comparison_id=comparison, **item)
    return comparison


_NAMED = (
    "SELECT c.*, b.name AS before_name, a.name AS after_name FROM comparisons c "
    "JOIN model_versions b ON b.id = c.before_id JOIN model_versions a ON a.id = c.after_id "
)


def list_comparisons(store: Store) -> list[dict]:
    """Every comparison with the names of its versions, newest first."""
    return [{**row, "result": json.loads(row["result"])} for row in store.rows(_NAMED + "ORDER BY c.id DESC")]


def get_comparison(store: Store, comparison_id: int) -> dict:
    row = store.row(_NAMED + "WHERE c.id = ?", comparison_id)
    if row is None:
        raise UserError("That comparison is no longer there. Reload the page.")
    return {**row, "result": json.loads(row["result"])}


def items_of(store: Store, comparison_id: int) -> list[dict]:
    rows = store.rows(
        "SELECT i.*, v.choice FROM comparison_items i LEFT JOIN current_votes v ON v.item_id = i.id "
        "WHERE i.comparison_id = ? ORDER BY i.id",
        comparison_id,
    )
    return [{**row, "facts": json.loads(row["facts"])} for row in rows]


def reveal(store: Store, comparison_id: int) -> None:
    """Take down that a comparison's answers were shown by their sides; votes on it are not blind any more."""
    if get_comparison(store, comparison_id)["revealed"] is None:
        store.update("comparisons", comparison_id, revealed=now())


def add_vote(store: Store, item_id: int, choice: str) -> int:
    """Keep a vote and whether it was blind; returns the comparison it is on."""
    row = store.row(
        "SELECT c.id, c.revealed FROM comparison_items i JOIN comparisons c ON c.id = i.comparison_id WHERE i.id = ?",
        item_id,
    )
    if row is None:
        raise UserError("That question is no longer there. Reload the page.")
    store.insert("votes", item_id=item_id, choice=choice, blind=int(row["revealed"] is None), created=now())
    return row["id"]


def vote_counts(store: Store, comparison_id: int) -> dict[str, int]:
    """Blind votes that stand, by choice; under "seen" those given when the sides were known."""
    rows = store.rows(
        "SELECT CASE WHEN v.blind THEN v.choice ELSE 'seen' END AS kind, count(*) AS n "
        "FROM current_votes v JOIN comparison_items i ON i.id = v.item_id WHERE i.comparison_id = ? GROUP BY kind",
        comparison_id,
    )
    return {"before": 0, "after": 0, "tie": 0, "seen": 0} | {row["kind"]: row["n"] for row in rows}
