"""From feedback in the store to what a reward model learns from."""

from engine.feedback.examples import Ranking
from engine.store import conversations
from engine.store import feedback as feedback_store
from engine.store.db import Store


def gather_rankings(store: Store) -> list[Ranking]:
    """Every ranking, edit and comparable set of ratings that stands, as rankings.

    An edit puts the rewritten answer above the original. Ratings speak where one prompt has two that differ.
    """
    found: list[Ranking] = []
    by_prompt: dict[int, list[dict]] = {}
    for row in feedback_store.current(store):
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    for prompt_id, rows in by_prompt.items():
        responses = {r["id"]: r for r in conversations.responses_of(store, prompt_id)}
        prompt = tuple((m["role"], m["content"]) for m in conversations.context_of(store, prompt_id))

        def ranking(texts, ranks, finished, ids, prompt=prompt):
            return Ranking(prompt, tuple(texts), tuple(ranks), tuple(finished), tuple(ids))

        for row in rows:
            if row["kind"] == "ranking":
                pairs = [(rank, r) for rank, tier in enumerate(row["value"]["tiers"]) for r in tier]
                shown = [responses[r] for _, r in pairs]
                ended = [r["finish"] == "stop" for r in shown]
                found.append(ranking([r["text"] for r in shown], [rank for rank, _ in pairs], ended, [row["id"]]))
            elif row["kind"] == "edit":
                original = responses[row["response_id"]]
                if row["value"]["text"] != original["text"]:
                    texts = [row["value"]["text"], original["text"]]
                    found.append(ranking(texts, [0, 1], [True, original["finish"] == "stop"], [row["id"]]))
        ratings = [row for row in rows if row["kind"] == "rating"]
        if len({row["value"]["score"] for row in ratings}) > 1:
            rated = [responses[row["response_id"]] for row in ratings]
            found.append(
                ranking(
                    [r["text"] for r in rated],
                    [-row["value"]["score"] for row in ratings],
                    [r["finish"] == "stop" for r in rated],
                    [row["id"] for row in ratings],
                )
            )
    return found
