"""From feedback in the store to what the methods learn from."""

from collections.abc import Iterator

from engine.feedback.examples import Prompt, Ranking, Valued
from engine.store import conversations
from engine.store import feedback as feedback_store
from engine.store.db import Store


def _by_prompt(store: Store) -> Iterator[tuple[Prompt, dict[int, dict], list[dict]]]:
    """(prompt, its responses by id, the feedback on them that stands), prompt by prompt."""
    grouped: dict[int, list[dict]] = {}
    for row in feedback_store.current(store):
        grouped.setdefault(row["prompt_id"], []).append(row)
    for prompt_id, rows in grouped.items():
        prompt = tuple((m["role"], m["content"]) for m in conversations.context_of(store, prompt_id))
        yield prompt, {r["id"]: r for r in conversations.responses_of(store, prompt_id)}, rows


def _ended(response: dict) -> bool:
    return response["finish"] == "stop"


def gather_rankings(store: Store) -> list[Ranking]:
    """Every ranking, edit and comparable set of ratings that stands, as rankings.

    An edit puts the rewritten answer above the original. Ratings speak where one prompt has two that differ.
    """
    found: list[Ranking] = []
    for prompt, responses, rows in _by_prompt(store):
        ratings: list[dict] = []
        for row in rows:
            if row["kind"] == "ranking":
                pairs = [(rank, responses[r]) for rank, tier in enumerate(row["value"]["tiers"]) for r in tier]
                found.append(_ranking(prompt, [r for _, r in pairs], [rank for rank, _ in pairs], [row["id"]]))
            elif row["kind"] == "edit":
                original = responses[row["response_id"]]
                edited = {"text": row["value"]["text"], "finish": "stop"}
                if edited["text"] != original["text"]:
                    found.append(_ranking(prompt, [edited, original], [0, 1], [row["id"]]))
            elif row["kind"] == "rating":
                ratings.append(row)
        if len({row["value"]["score"] for row in ratings}) > 1:
            rated = [responses[row["response_id"]] for row in ratings]
            ranks = [-row["value"]["score"] for row in ratings]
            found.append(_ranking(prompt, rated, ranks, [row["id"] for row in ratings]))
    return found


def _ranking(prompt: Prompt, responses: list[dict], ranks: list[float], ids: list[int]) -> Ranking:
    texts, ended = tuple(r["text"] for r in responses), tuple(map(_ended, responses))
    return Ranking(prompt, texts, tuple(ranks), ended, tuple(ids))


def gather_valued(store: Store) -> list[Valued]:
    """Every response that someone judged, with a value from -1 to 1.

    A rating of 1 to 5 is spread evenly over it, and so are the tiers of a ranking; an edited answer is worth 1 and
    what it replaced -1. A response that was judged in several ways comes several times.
    """
    found: list[Valued] = []
    for prompt, responses, rows in _by_prompt(store):
        for row in rows:
            ids = (row["id"],)
            if row["kind"] == "rating":
                response, score = responses[row["response_id"]], row["value"]["score"]
                grade = round(score)
                found.append(Valued(prompt, response["text"], (score - 3) / 2, "rating", _ended(response), grade, ids))
            elif row["kind"] == "edit":
                original, text = responses[row["response_id"]], row["value"]["text"]
                found.append(Valued(prompt, text, 1.0, "edit", True, None, ids))
                if text != original["text"]:
                    found.append(Valued(prompt, original["text"], -1.0, "edit", _ended(original), None, ids))
            elif row["kind"] == "ranking" and len(row["value"]["tiers"]) > 1:
                tiers = row["value"]["tiers"]
                for place, tier in enumerate(tiers):
                    value = 1 - 2 * place / (len(tiers) - 1)
                    found += [
                        Valued(prompt, r["text"], value, "ranking", _ended(r), None, ids)
                        for r in (responses[i] for i in tier)
                    ]
    return found
