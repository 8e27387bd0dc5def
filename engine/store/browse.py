"""The store as one table: prompts with their responses and what was said of them, searched and filtered."""

from engine.store.conversations import responses_of
from engine.store.db import Store, like
from engine.store.feedback import current

# What a filter keeps, as a condition on a prompt p.
_JUDGED = "EXISTS (SELECT 1 FROM current_ids c WHERE c.prompt_id = p.id AND c.kind = '{kind}')"
_UNJUDGED = "NOT EXISTS (SELECT 1 FROM current_ids c WHERE c.prompt_id = p.id)"
FILTERS = {
    "all": f"NOT (p.source LIKE 'label:%' AND {_UNJUDGED})",  # what waits in Label's queue nobody has asked or seen
    "ranked": _JUDGED.format(kind="ranking"),
    "edited": _JUDGED.format(kind="edit"),
    "rated": _JUDGED.format(kind="rating"),
    "commented": _JUDGED.format(kind="comment"),
    "unjudged": _UNJUDGED,
    "chat": "p.source = 'chat'",
    "label": "p.source LIKE 'label:%'",
    "imported": "p.source LIKE 'import:%'",
}


def browse(store: Store, search: str = "", kind: str = "all", before: int | None = None, limit: int = 30) -> dict:
    """{"rows": prompts, newest first, each with "responses" and "feedback"; "more": the id to go on before, or None}.

    Pages go by id, so that a page deep down costs no more than the first.
    """
    where = [FILTERS.get(kind, FILTERS["all"])]
    values: list[str | int] = []
    if search.strip():
        where.append(
            "(p.text LIKE ? ESCAPE '\\' OR EXISTS "
            "(SELECT 1 FROM responses r WHERE r.prompt_id = p.id AND r.text LIKE ? ESCAPE '\\'))"
        )
        values += [like(search.strip())] * 2
    if before is not None:
        where.append("p.id < ?")
        values.append(before)
    rows = store.rows(
        f"SELECT p.* FROM prompts p WHERE {' AND '.join(where)} ORDER BY p.id DESC LIMIT ?", *values, limit + 1
    )
    more = rows[limit - 1]["id"] if len(rows) > limit else None
    return {"rows": [with_all(store, row) for row in rows[:limit]], "more": more}


def with_all(store: Store, row: dict) -> dict:
    """A prompt's row with its "responses" and the "feedback" that stands."""
    return {**row, "responses": responses_of(store, row["id"]), "feedback": current(store, row["id"])}
