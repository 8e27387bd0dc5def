"""Sampling: many answers at once, with the log-probability of every token.

One decode loop serves rollouts and chat. Each row draws from random numbers of its own seed, so an answer is
the same whatever else is in the batch; finished rows leave the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from engine.sampling.settings import Sampling


@dataclass
class Rollout:
    """Answers to a batch of prompts.

    prompt_ids, prompt_mask: [rows, prompt time], padded on the left.
    response_ids, response_mask, log_probs: [rows, response time], padded on the right. log_probs are of the
    sampled tokens under softmax(logits / temperature), before top-p and top-k.
    finished: [rows], True where the answer ended by itself.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    log_probs: Tensor
    finished: Tensor

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


@torch.no_grad()
def decode_steps(
    model, prompts: list[list[int]], pad_id: int, stop: list[int], sampling: Sampling, seeds: list[int]
) -> Iterator[tuple[list[int], list[int], list[float]]]:
    """Yield (rows, tokens, log-probs) for the rows still going, one step at a time.

    A row's stop token is its last. `model` is a causal LM in the role that answers.
    """
    device = next(model.parameters()).device
    ids, mask = pad_left(prompts, pad_id, device)
    uniform = torch.stack(
        [torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)
    positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
    stops = torch.tensor(stop, device=device)
    rows = torch.arange(len(prompts), device=device)
    live = torch.ones(len(prompts), dtype=torch.bool, device=device)
    cache = DynamicCache(config=model.config)
    for step in range(sampling.max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens, log_probs = draw(logits, uniform[rows, step], sampling)
        yield rows[live].tolist(), tokens[live].tolist(), log_probs[live].tolist()
        live = live & ~torch.isin(tokens, stops)
        if not live.any():
            return
        # Leaving costs a copy of the cache, so rows leave when a quarter of the batch is done.
        if live.sum() <= 0.75 * len(live):
            keep = live.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            rows, tokens, mask, positions = rows[keep], tokens[keep], mask[keep], positions[keep]
            live = live[keep]
        ids = tokens.unsqueeze(-1)
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)


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
    model, prompts: list[list[int]], pad_id: int, stop: list[int], sampling: Sampling, seeds: list[int]
) -> Rollout:
    """One answer to each prompt; `seeds` has one number a prompt. Shapes as `Rollout` says."""
    tokens: list[list[int]] = [[] for _ in prompts]
    log_probs: list[list[float]] = [[] for _ in prompts]
    for rows, step_tokens, step_log_probs in decode_steps(model, prompts, pad_id, stop, sampling, seeds):
        for row, token, log_prob in zip(rows, step_tokens, step_log_probs, strict=True):
            tokens[row].append(token)
            log_probs[row].append(log_prob)
    return as_rollout(prompts, tokens, stop, pad_id, next(model.parameters()).device, log_probs)
