"""Hidden states and logits of padded batches, computed for the real tokens alone.

Padding is waste twice: it is computed, and masks keep attention off its fast path. So rows are shifted to the left,
where a causal model's real tokens never see what comes after them and need no mask, and rows of like length go
through the model together.
"""

from typing import Any

import torch
from torch import Tensor

# Tokens of padding that cost about as much as one more pass through the model, most of which is launching kernels.
WORTH_A_PASS = {"cpu": 192, "cuda": 8192}


def alike(lengths: list[int], worth: int) -> list[list[int]]:
    """The rows in groups of like length, longest first: a group is cut where that saves `worth` tokens of padding.

    >>> alike([3, 100, 4, 90], 150)
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    start = 0
    while start < len(order):
        # The cut that saves most: rows behind it are padded to their own longest, not to this group's.
        rest = order[start:]
        top = lengths[rest[0]]
        saved = [(top - lengths[row]) * (len(rest) - at) for at, row in enumerate(rest)]
        best = max(range(len(rest)), key=saved.__getitem__)
        end = len(order) if saved[best] < worth else start + best
        groups.append(order[start:end])
        start = end
    return groups


def real_states(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states of the tokens of `ids` [rows, time] where `mask`, row by row: [tokens, width].

    A row's real tokens stand together; padding may be on either side or on both.
    """
    decoder = model.get_decoder()
    lengths = mask.sum(-1)
    order = torch.argsort(~mask, dim=-1, stable=True)  # a row's real tokens first
    ids, kept = ids.gather(-1, order), mask.gather(-1, order)
    groups = alike(lengths.tolist(), WORTH_A_PASS[ids.device.type])
    if len(groups) == 1:
        width = int(lengths.max())
        return decoder(input_ids=ids[:, :width], use_cache=False)[0][kept[:, :width]]
    flat = torch.arange(int(lengths.sum()), device=ids.device)
    places = torch.zeros_like(ids).masked_scatter(kept, flat)  # where in the result a token's state belongs
    states, found = [], []
    for group in groups:
        rows = torch.tensor(group, device=ids.device)
        width = int(lengths[rows].max())
        real = kept[rows, :width]
        states.append(decoder(input_ids=ids[rows, :width], use_cache=False)[0][real])
        found.append(places[rows, :width][real])
    return torch.cat(states)[torch.argsort(torch.cat(found))]


def last_states(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden state [rows, width] of the last real token of each row of `ids` [rows, time]."""
    return real_states(model, ids, mask)[mask.sum(-1).cumsum(0) - 1]


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """float32 logits [..., vocabulary] of hidden states, as the model's own forward pass computes them."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
    return torch.tanh(logits / cap) * cap if cap else logits
