"""Sampling: many answers at once, with the log-probability of every token.

One decode loop serves rollouts and chat. Each row draws from random numbers of its own seed, so an answer is
the same whatever else is in the batch; finished rows leave the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.models.states import logits_of
from engine.sampling.settings import Sampling
from engine.sampling.steps import steps_of


@dataclass
class Rollout:
    """Answers to a batch of prompts.

    prompt_ids, prompt_mask: [rows, prompt time], padded on the left.
    response_ids, response_mask, log_probs: [rows, response time], padded on the right. log_probs are of the
    sampled tokens under softmax(logits / temperature), before top-p and top-k.
    finished: [rows], True where the answer ended by itself.
    states: [rows, response time, width], the hidden states that the tokens were drawn from, where they were kept.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    log_probs: Tensor
    finished: Tensor
    states: Tensor | None = None

    def tokens(self, row: int) -> list[int]:
        return self.response_ids[row][self.response_mask[row]].tolist()


def pad_left(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask) [rows, time], the rows' ends aligned."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = True
    return ids.to(device), mask.to(device)


def _truncate(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """Zero what top-k and top-p (nucleus, Holtzman et al. 2020) leave out; the rest is not rescaled."""
    if sampling.top_k == 0 and sampling.top_p >= 1:
        return probabilities
    ordered, index = probabilities.sort(-1, descending=True)
    if sampling.top_k:
        ordered[..., sampling.top_k :] = 0
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= sampling.top_p * ordered.sum(-1, keepdim=True), 0)
    return torch.zeros_like(probabilities).scatter(-1, index, ordered)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(token [rows], its log-probability [rows]) from logits [rows, vocabulary] and uniform [rows] in [0, 1).

    By inversion of the cumulative distribution: one random number a token.
    """
    if sampling.temperature == 0:
        log_probs = torch.log_softmax(logits.float(), -1)
        token = log_probs.argmax(-1)
    else:
        log_probs = torch.log_softmax(logits.float() / sampling.temperature, -1)
        cumulative = _truncate(log_probs.exp(), sampling).double().cumsum(-1)
        target = uniform.double().unsqueeze(-1) * cumulative[..., -1:]
        token = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return token, log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1)


class Step(NamedTuple):
    """One more token for each of the rows that are still going."""

    rows: list[int]
    tokens: list[int]
    log_probs: list[float]
    states: Tensor  # [rows, width], the hidden states that the tokens were drawn from


@torch.no_grad()
def decode_steps(
    model, prompts: list[list[int]], pad_id: int, stop: list[int], sampling: Sampling, seeds: list[int]
) -> Iterator[Step]:
    """Yield the rows still going, one token at a time. A row's stop token is its last.

    `model` is a causal LM in the role that answers. A prompt that comes more than once is read once.
    """
    device = next(model.parameters()).device
    uniform = torch.stack(
        [torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)
    stops = torch.tensor(stop, device=device)
    rows = torch.arange(len(prompts), device=device)
    live = torch.ones(len(prompts), dtype=torch.bool, device=device)
    different = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    hidden, steps = steps_of(model, *pad_left(list(map(list, different)), pad_id, device), sampling.max_new_tokens)
    if len(different) < len(prompts):
        copies = torch.tensor([different[tuple(prompt)] for prompt in prompts], device=device)
        steps.keep(copies)
        hidden = hidden[copies]
    for step in range(sampling.max_new_tokens):
        tokens, log_probs = draw(logits_of(model, hidden), uniform[rows, step], sampling)
        yield Step(rows[live].tolist(), tokens[live].tolist(), log_probs[live].tolist(), hidden[live])
        live = live & ~torch.isin(tokens, stops)
        if not live.any() or step + 1 == sampling.max_new_tokens:
            return
        # Leaving costs a copy of the cache, so rows leave when a quarter of the batch is done.
        if live.sum() <= 0.75 * len(live):
            kept = live.nonzero().squeeze(-1)
            steps.keep(kept)
            rows, tokens, live = rows[kept], tokens[kept], live[kept]
        hidden = steps.next(tokens)


def as_rollout(
    prompts: list[list[int]],
    answers: list[list[int]],
    stop: list[int],
    pad_id: int,
    device: torch.device,
    log_probs: list[list[float]] | None = None,
) -> Rollout:
    """Given answers in the shape of drawn ones; log_probs are 0 where they are not given."""
    prompt_ids, prompt_mask = pad_left(prompts, pad_id, device)
    shape = len(answers), max(map(len, answers))
    ids = torch.full(shape, pad_id)
    mask = torch.zeros(shape, dtype=torch.bool)
    scores = torch.zeros(shape)
    for i, answer in enumerate(answers):
        ids[i, : len(answer)] = torch.tensor(answer)
        mask[i, : len(answer)] = True
        if log_probs:
            scores[i, : len(answer)] = torch.tensor(log_probs[i])
    finished = torch.tensor([answer[-1] in stop for answer in answers])
    return Rollout(prompt_ids, prompt_mask, ids.to(device), mask.to(device), scores.to(device), finished.to(device))


def rollout(
    model,
    prompts: list[list[int]],
    pad_id: int,
    stop: list[int],
    sampling: Sampling,
    seeds: list[int],
    keep_states: bool = False,
) -> Rollout:
    """One answer to each prompt; `seeds` has one number a prompt. Shapes as `Rollout` says."""
    tokens: list[list[int]] = [[] for _ in prompts]
    log_probs: list[list[float]] = [[] for _ in prompts]
    kept: list[Step] = []
    for step in decode_steps(model, prompts, pad_id, stop, sampling, seeds):
        for row, token, log_prob in zip(step.rows, step.tokens, step.log_probs, strict=True):
            tokens[row].append(token)
            log_probs[row].append(log_prob)
        if keep_states:
            kept.append(step)
    drawn = as_rollout(prompts, tokens, stop, pad_id, next(model.parameters()).device, log_probs)
    if kept:
        drawn.states = kept[0].states.new_zeros(*drawn.response_mask.shape, kept[0].states.shape[-1])
        for at, step in enumerate(kept):
            drawn.states[torch.tensor(step.rows, device=drawn.states.device), at] = step.states
    return drawn
