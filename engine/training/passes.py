"""Passes over answers that methods and comparisons need."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.models.load import stop_ids
from engine.models.roles import Roles, ScalarHead, hidden_states, logits_of
from engine.sampling.answers import Answer
from engine.sampling.rollout import Rollout, as_rollout


class Scorer(Protocol):
    """Anything that scores answers: a reward model, or a function that someone wrote."""

    def scores(self, answers: list[Answer]) -> Tensor:
        """[answers], on the CPU; higher is better."""
        ...


def states_before(model, drawn: Rollout, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(the hidden states that predict each response token of `rows` [rows, time, width], which are real [rows, time]).

    As long as the longest of these responses.
    """
    ids = torch.cat([drawn.prompt_ids[rows], drawn.response_ids[rows]], -1)
    mask = torch.cat([drawn.prompt_mask[rows], drawn.response_mask[rows]], -1)
    # Columns that are padding in every chosen row cost time and change nothing.
    keep = mask.any(0)
    hidden = hidden_states(model, ids[:, keep], mask[:, keep])
    width = int(drawn.response_mask[rows].any(0).sum())
    return hidden[:, -width - 1 : -1], drawn.response_mask[rows][:, :width]


def response_pass(
    model, head: ScalarHead | None, drawn: Rollout, rows: Tensor, temperature: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(log-probs, values, entropy) of the response tokens of `rows`; each [rows, response time].

    Log-probs are under softmax(logits / temperature), as they were drawn. Only response positions reach the
    vocabulary.
    """
    before, real = states_before(model, drawn, rows)
    targets = drawn.response_ids[rows][:, : real.shape[1]][real]
    chosen = before[real]
    log_softmax = torch.log_softmax(logits_of(model, chosen) / temperature, -1)
    shape = drawn.response_mask[rows].shape
    full = drawn.response_mask[rows]

    def spread(flat: Tensor) -> Tensor:
        return torch.zeros(shape, device=flat.device, dtype=flat.dtype).masked_scatter(full, flat)

    log_probs = spread(log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
    with torch.no_grad():
        entropy = spread(-(log_softmax.exp() * log_softmax).sum(-1))
    values = spread(head(chosen).squeeze(-1)) if head is not None else None
    return log_probs, values, entropy


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
        log_probs, _, _ = response_pass(model, None, drawn, rows, temperature)
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
