"""Sampling: many answers at once, with the log-probability of every token.

One decode loop serves rollouts and chat. Each row draws from random numbers of its own seed, so an answer is
the same whatever else is in the batch; finished rows leave the batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.models.states import logits_of
from engine.sampling.settings import Sampling
from engine.sampling.ways import steps_of


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


CHUNK = 512  # tokens whose probabilities are summed before it is looked for one among them
FEW = 1 << 16  # probabilities in all of which a running sum is the faster way


def _inverted(p: Tensor, uniform: Tensor) -> Tensor:
    """[rows], the token at the share `uniform` [rows] of the cumulative sum of p [rows, vocabulary], in float64.

    First the chunk, then the token in it: a running sum over a vocabulary is slow, on a GPU above all.
    """
    if p.numel() <= FEW:
        upto = p.double().cumsum(-1)
        token = torch.searchsorted(upto, uniform.double().unsqueeze(-1) * upto[:, -1:], right=True)
        return token.squeeze(-1).clamp_max(p.shape[-1] - 1)
    chunks = torch.nn.functional.pad(p, (0, -p.shape[-1] % CHUNK)).unflatten(-1, (-1, CHUNK))
    sums = chunks.sum(-1, dtype=torch.float64)
    upto = sums.cumsum(-1)
    target = uniform.double().unsqueeze(-1) * upto[:, -1:]
    chunk = torch.searchsorted(upto, target, right=True).clamp_max(sums.shape[-1] - 1)
    inside = chunks.take_along_dim(chunk.unsqueeze(-1), 1).squeeze(1).double().cumsum(-1)
    # Rounding may put the target just outside of the chunk, where no token may be drawn.
    target = (target - (upto - sums).gather(-1, chunk)).clamp_min(0).minimum(inside[:, -1:] * (1 - 1e-12))
    token = chunk * CHUNK + torch.searchsorted(inside, target, right=True)
    return token.squeeze(-1).clamp_max(p.shape[-1] - 1)  # where a probability is no number


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """(token [rows], its log-probability [rows]) from logits [rows, vocabulary] and uniform [rows] in [0, 1).

    By inversion of the cumulative distribution: one random number a token.
    """
    if sampling.temperature == 0:
        log_probs = torch.log_softmax(logits.float(), -1)
        token = log_probs.argmax(-1)
    else:
        log_probs = torch.log_softmax(logits.float() / sampling.temperature, -1)
        token = _inverted(_truncate(log_probs.exp(), sampling), uniform)
    return token, log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1)


def _on_its_way(found: Tensor) -> Callable[[], list]:
    """What gives the numbers of `found`. On a GPU they are under way while it computes on."""
    if not found.is_cuda:
        return found.tolist
    here = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
    here.copy_(found, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def numbers() -> list:
        arrived.synchronize()
        return here.tolist()

    return numbers


class Step(NamedTuple):
    """One more token for each of the rows that are still going."""

    rows: list[int]
    tokens: list[int]
    log_probs: list[float]
    hidden: Tensor  # [places, width], the hidden states that tokens were drawn from
    places: list[int]  # of the rows in `hidden`


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
    different = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    hidden, steps = steps_of(model, *pad_left(list(map(list, different)), pad_id, device), sampling.max_new_tokens)
    if len(different) < len(prompts):
        copies = torch.tensor([different[tuple(prompt)] for prompt in prompts], device=device)
        steps.keep(copies)
        hidden = hidden[copies]
    rows = list(range(len(prompts)))  # which row stands in each place
    places = rows  # those whose rows are still going
    for step in range(sampling.max_new_tokens):
        logits = steps.head(hidden) if steps.head else logits_of(model, hidden)
        tokens, log_probs = draw(logits, uniform[:, step], sampling)
        numbers = _on_its_way(torch.stack([tokens.double(), log_probs.double()]))
        last = step + 1 == sampling.max_new_tokens
        after = steps.next(tokens) if steps.ahead and not last else None
        ids, scores = numbers()
        yield Step(
            [rows[i] for i in places], [int(ids[i]) for i in places], [scores[i] for i in places], hidden, places
        )
        places = [i for i in places if int(ids[i]) not in stop]
        if not places or last:
            return
        if len(places) <= steps.leaving * len(rows):
            kept = torch.tensor(places, device=device)
            steps.keep(kept)
            rows, places = [rows[i] for i in places], list(range(len(places)))
            uniform, tokens = uniform[kept], tokens[kept]
            after = None if after is None else after[kept]
        hidden = steps.next(tokens) if after is None else after


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
        drawn.states = kept[0].hidden.new_zeros(*drawn.response_mask.shape, kept[0].hidden.shape[-1])
        for at, step in enumerate(kept):
            rows, places = torch.tensor([step.rows, step.places], device=drawn.states.device)
            drawn.states[rows, at] = step.hidden[places]
    return drawn
