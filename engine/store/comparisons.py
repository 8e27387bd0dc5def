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


def add_vote(store: Store, item_id: int, choice: str, blind: bool) -> int:
    return store.insert("votes", item_id=item_id, choice=choice, blind=int(blind), created=now())


def vote_counts(store: Store, comparison_id: int) -> dict[str, int]:
    rows = store.rows(
        "SELECT v.choice, count(*) AS n FROM current_votes v JOIN comparison_items i ON i.id = v.item_id "
        "WHERE i.comparison_id = ? GROUP BY v.choice",
        comparison_id,
    )
    return {"before": 0, "after": 0, "tie": 0} | {row["choice"]: row["n"] for row in rows}
