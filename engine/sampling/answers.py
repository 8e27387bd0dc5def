"""Answers to conversations: `rollout` in terms of text, in batches of like length."""

from dataclasses import dataclass

from engine.models.chat import Message, decode, encode_prompt
from engine.models.load import stop_ids
from engine.models.roles import Roles
from engine.sampling.rollout import rollout
from engine.sampling.settings import Sampling


@dataclass(frozen=True)
class Answer:
    """One generated answer. `finish` is "stop" where it ended by itself, else "length"."""

    messages: list[Message]  # what it answers
    text: str
    prompt_ids: list[int]
    ids: list[int]
    log_probs: list[float]
    seed: int
    finish: str


def answer(
    roles: Roles,
    role: str | None,
    conversations: list[list[Message]],
    sampling: Sampling,
    seeds: list[int],
    batch: int = 64,
) -> list[Answer]:
    """One answer to each conversation, in their order, drawn with the seed of the same place."""
    tokenizer = roles.tokenizer
    prompts = [encode_prompt(tokenizer, c, room=sampling.max_new_tokens) for c in conversations]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), batch):
        index = order[start : start + batch]
        with roles.acting(role) as model:
            drawn = rollout(
                model,
                [prompts[i] for i in index],
                tokenizer.pad_token_id,
                stop_ids(roles.base),
                sampling,
                [seeds[i] for i in index],
            )
        for row, i in enumerate(index):
            ids = drawn.tokens(row)
            log_probs = drawn.log_probs[row][drawn.response_mask[row]].tolist()
            finish = "stop" if drawn.finished[row] else "length"
            found[i] = Answer(conversations[i], decode(tokenizer, ids), prompts[i], ids, log_probs, seeds[i], finish)
    return [found[i] for i in range(len(prompts))]
