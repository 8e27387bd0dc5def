"""What the methods learn from, whatever kind of feedback it came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

Message = dict[str, str]
Prompt = tuple[tuple[str, str], ...]  # (role, text) of every turn up to the answer


def messages_of(prompt: Prompt) -> list[Message]:
    return [{"role": role, "content": text} for role, text in prompt]


@dataclass(frozen=True)
class Ranking:
    """Responses to one prompt in a person's order: ranks[i] belongs to responses[i], lower is better.

    An edit is a ranking of two (edited above original); ratings of one prompt are a ranking with ties.
    finished[i] is False where a response was cut off at its length limit.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    finished: tuple[bool, ...]
    feedback_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Valued:
    """One response and how good it is, from -1 to 1: of its rating, its place in a ranking, or an edit.

    grade is its rating from 1 to 5, None where it came otherwise.
    """

    prompt: Prompt
    response: str
    value: float
    source: str  # "rating", "ranking" or "edit"
    finished: bool
    grade: int | None = None
    feedback_ids: tuple[int, ...] = ()


class Prompted(Protocol):
    @property
    def prompt(self) -> Prompt: ...


Example = TypeVar("Example", bound=Prompted)


def held_out(prompt: Prompt, share: float) -> bool:
    """Whether a prompt belongs to the held-out part. By its text, so every round and method agrees."""
    return int.from_bytes(_digest(prompt)[:8], "big") / 2**64 < share


def _digest(prompt: Prompt) -> bytes:
    return hashlib.sha256(repr([list(turn) for turn in prompt]).encode()).digest()


def split_by_prompt(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """(training, held-out): no prompt stands on both sides, and neither side is empty if it can be helped."""
    train = [e for e in examples if not held_out(e.prompt, share)]
    test = [e for e in examples if held_out(e.prompt, share)]
    prompts = {e.prompt for e in examples}
    if len(prompts) >= 2 and (not test or not train):
        # Few prompts can all fall on one side; the first in hash order then stands alone on the other.
        lone = min(prompts, key=_digest)
        rest = [e for e in examples if e.prompt != lone]
        alone = [e for e in examples if e.prompt == lone]
        return (rest, alone) if not test else (alone, rest)
    return train, test
