"""How good the feedback is that a person has given so far: is it enough, does it agree with itself, what biases it."""

import json
from itertools import combinations

from engine.store import feedback
from engine.store.db import Store


def _pairs(tiers: list[list[int]]) -> tuple[list[tuple[int, int]], int]:
    """((better, worse) pairs, how many pairs are ties) of a ranking."""
    ranks = {response: rank for rank, tier in enumerate(tiers) for response in tier}
    both = list(combinations(ranks, 2))
    ordered = [(a, b) if ranks[a] < ranks[b] else (b, a) for a, b in both if ranks[a] != ranks[b]]
    return ordered, len(both) - len(ordered)


def quality(store: Store, most: int = 1000) -> dict:
    """Shares from 0 to 1, None where nothing can be said; the newest `most` rankings count.

    "ties": of all pairs; "longer_wins": of untied pairs whose lengths differ, those that the longer answer won (0.5
    means length does not matter); "agreement" and "contradictions": of the pairs a person ordered twice, those ordered
    alike, and how many were not; "unjudged": prompts with several answers and no feedback.
    """
    rows = store.rows("SELECT value FROM standing_feedback WHERE kind = 'ranking' ORDER BY id DESC LIMIT ?", most)
    words = {
        row["id"]: row["length"]
        for row in store.rows(
            "SELECT r.id, length(r.text) AS length FROM responses r WHERE r.prompt_id IN (SELECT prompt_id FROM "
            "standing_feedback WHERE kind = 'ranking' ORDER BY id DESC LIMIT ?)",
            most,
        )
    }
    ties = untied = longer = unequal = 0
    for row in rows:
        ordered, tied = _pairs(json.loads(row["value"])["tiers"])
        ties += tied
        untied += len(ordered)
        for better, worse in ordered:
            a, b = words.get(better, 0), words.get(worse, 0)
            unequal += a != b
            longer += a > b
    again = alike = 0
    for first, second in feedback.judged_twice(store, most):
        for a, b in combinations(set(first) & set(second), 2):
            one, two = first[a] - first[b], second[a] - second[b]
            if one and two:
                again += 1
                alike += (one > 0) == (two > 0)
    unjudged = store.rows(
        "SELECT count(*) AS n FROM prompts p WHERE NOT EXISTS (SELECT 1 FROM current_ids c WHERE c.prompt_id = p.id) "
        "AND (SELECT count(*) FROM responses r WHERE r.prompt_id = p.id) > 1"
    )[0]["n"]
    return {
        "rankings": len(rows),
        "ties": ties / (ties + untied) if ties + untied else None,
        "longer_wins": longer / unequal if unequal else None,
        "agreement": alike / again if again else None,
        "twice": again,
        "contradictions": again - alike,
        "unjudged": unjudged,
    }
