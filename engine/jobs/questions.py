"""The questions of a run: what the policy practises on, and what before and after are asked.

A share of the person's own questions is kept for comparing: those of which nothing was ever said, since feedback is
learned from wherever it lies.
"""

from engine.errors import UserError
from engine.feedback.examples import held_out
from engine.jobs.config import RunConfig
from engine.models.chat import Message, fits
from engine.models.roles import Roles
from engine.prompts import load_prompts
from engine.store import conversations
from engine.store.db import Store

ENOUGH = 20  # of the person's own questions without feedback; with fewer, all are practised on


def opening(texts: list[str]) -> list[list[Message]]:
    """Each text as a conversation that it opens."""
    return [[{"role": "user", "content": text}] for text in texts]


def kept_back(store: Store, share: float) -> list[str]:
    """The person's own questions that no method learns from, about `share` of those without feedback."""
    own = conversations.unjudged_questions(store)
    return [text for text in own if held_out((("user", text),), share)] if len(own) >= ENOUGH else []


def compared(store: Store, roles: Roles, config: RunConfig) -> list[list[Message]]:
    """What before and after are asked: as many of the person's own questions as were kept back, up to half of all,
    then built-in ones in phrasings that no training uses."""
    count = config.compare.prompts
    own = opening(kept_back(store, config.reward.held_out))
    own = [c for c in own if fits(roles.tokenizer, c, config.sampling.max_new_tokens)][: count // 2]
    return own + opening(load_prompts("everyday-test"))[: count - len(own)]


def practised(
    store: Store, roles: Roles, config: RunConfig, room: int
) -> tuple[list[list[Message]], list[list[Message]]]:
    """(what the policy practises on, the share of it that measures where something is measured): the person's own
    prompts and the built-in set.

    A conversation that leaves no room for an answer of `room` tokens is left out; it must not end a run that could go
    without it. Raises UserError where nothing is left.
    """
    kept = set(kept_back(store, config.reward.held_out))
    own = [c for c in conversations.own_prompts(store) if len(c) > 1 or c[0]["content"] not in kept]
    built_in = opening(load_prompts(config.prompt_set))
    found = {repr(c): c for c in own + built_in if fits(roles.tokenizer, c, room)}
    if not own + built_in:
        raise UserError("There are no prompts to practise on. Chat a little first, or set prompt_set=everyday.")
    if not found:
        reads = roles.tokenizer.model_max_length
        raise UserError(f"Answers of {room} tokens leave no room for a question: the model reads {reads}. Allow fewer.")
    every = list(found.values())
    return every, [c for c in every if held_out(tuple((m["role"], m["content"]) for m in c), config.reward.held_out)]
