"""What a reward model learns from: rankings, whatever kind of feedback they came from."""

import hashlib
from dataclasses import dataclass

Message = dict[str, str]


@dataclass(frozen=True)
class Ranking:
    """Responses to one prompt in a person's order: ranks[i] belongs to responses[i], lower is better.

    An edit is a ranking of two (edited above original); ratings of one prompt are a ranking with ties.
    finished[i] is False where a response was cut off at its length limit.
    """

    prompt: tuple[tuple[str, str], ...]  # (role, text) of every turn up to the answer
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    finished: tuple[bool, ...]
    feedback_ids: tuple[int, ...] = ()

    @property
    def messages(self) -> list[Message]:
        return [{"role": role, "content": text} for role, text in self.prompt]


def held_out(prompt: tuple[tuple[str, str], ...], share: float) -> bool:
    """Whether a prompt belongs to the held-out part. By its text, so every round and method agrees."""
    digest = hashlib.sha256(repr([list(turn) for turn in prompt]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def split_by_prompt(rankings: list[Ranking], share: float) -> tuple[list[Ranking], list[Ranking]]:
    """(training, held-out): no prompt stands on both sides, and neither side is empty if it can be helped."""
    train = [r for r in rankings if not held_out(r.prompt, share)]
    test = [r for r in rankings if held_out(r.prompt, share)]
    prompts = {r.prompt for r in rankings}
    if len(prompts) >= 2 and (not test or not train):
        # Few prompts can all fall on one side; the first in hash order then stands alone on the other.
        lone = min(prompts, key=lambda p: hashlib.sha256(repr(p).encode()).digest())
        rest = [r for r in rankings if r.prompt != lone]
        alone = [r for r in rankings if r.prompt == lone]
        return (rest, alone) if not test else (alone, rest)
    return train, test
