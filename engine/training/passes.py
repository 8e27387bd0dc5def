"""Passes over answers that methods and comparisons need."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.models.heads import ScalarHead
from engine.models.load import stop_ids
from engine.models.roles import Roles
from engine.models.states import real_states
from engine.models.token_log_probs import token_log_probs
from engine.sampling.answers import Answer
from engine.sampling.rollout import Rollout, as_rollout
from engine.training.batches import spread


class Scorer(Protocol):
    """Anything that scores answers: a reward model, or a function that someone wrote."""

    def scores(self, answers: list[Answer]) -> Tensor:
        """[answers], on the CPU; higher is better."""
        ...


def states_before(model, drawn: Rollout, rows: Tensor) -> Tensor:
    """The hidden states that predict the response tokens of `rows`, row by row: [response tokens, width]."""
    ids = torch.cat([drawn.prompt_ids[rows], drawn.response_ids[rows]], -1)
    mask = torch.cat([drawn.prompt_mask[rows], drawn.response_mask[rows]], -1)
    # Prompts end where answers begin: what predicts a response token is the cell to its left.
    before = torch.cat([torch.zeros_like(drawn.prompt_mask[rows])[:, 1:], drawn.response_mask[rows]], -1)
    return real_states(model, ids, mask, torch.nn.functional.pad(before, (0, 1)))


def response_pass(
    model, head: ScalarHead | None, drawn: Rollout, rows: Tensor, temperature: float
) -> tuple[Tensor, Tensor | None]:
    """(log-probs, values) of the response tokens of `rows`; each [rows, response time].

    Log-probs are under softmax(logits / temperature), as they were drawn. Only response positions reach the
    vocabulary.
    """
    mask = drawn.response_mask[rows]
    before = states_before(model, drawn, rows)
    log_probs = token_log_probs(model, before, drawn.response_ids[rows][mask], temperature)
    return spread(log_probs, mask), spread(head(before).squeeze(-1), mask) if head is not None else None


class Encoded(NamedTuple):
    """Token ids of a prompt and of an answer to it."""

    prompt: list[int]
    answer: list[int]


def given(roles: Roles, pairs: Sequence[Encoded]) -> Rollout:
    """Answers that are there already, in the shape of drawn ones."""
    prompts, answers = (list(side) for side in zip(*pairs, strict=True))
    return as_rollout(prompts, answers, stop_ids(roles.base), roles.tokenizer.pad_token_id, roles.base.device)


def answer_log_probs(
    roles: Roles, role: str | None, pairs: Sequence[Encoded], temperature: float = 1.0, train: bool = False
) -> tuple[Tensor, Tensor]:
    """(log-probs, mask) [rows, time] of the answers' tokens under `role`."""
    drawn = given(roles, pairs)
    rows = torch.arange(len(pairs), device=roles.base.device)
    with roles.acting(role, train=train) as model:
        log_probs, _ = response_pass(model, None, drawn, rows, temperature)
    return log_probs, drawn.response_mask


@torch.no_grad()
def whole_log_probs(
    roles: Roles, role: str | None, pairs: Sequence[Encoded], temperature: float = 1.0, batch: int = 32
) -> list[float]:
    """log p(answer | prompt) in nats, one an answer, under `role`."""
    totals: list[float] = []
    for start in range(0, len(pairs), batch):
        log_probs, _ = answer_log_probs(roles, role, pairs[start : start + batch], temperature)
        totals += log_probs.sum(-1).tolist()
    return totals
