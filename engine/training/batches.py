"""Rows of different lengths to padded tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_right(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids, mask) [rows, time], the rows' starts aligned."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return ids, mask


def pad_ranks(ranks: Sequence[Sequence[float]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ranks, which of them are there), each [rankings, K], of rankings of different lengths."""
    width = max(map(len, ranks))
    padded = torch.zeros(len(ranks), width)
    present = torch.zeros(len(ranks), width, dtype=torch.bool)
    for i, row in enumerate(ranks):
        padded[i, : len(row)] = torch.tensor(row)
        present[i, : len(row)] = True
    return padded.to(device), present.to(device)


def spread(flat: Tensor, present: Tensor) -> Tensor:
    """flat [cells, ...] -> [rows, time, ...], zeros where `present` [rows, time] is False; keeps the gradient."""
    padded = flat.new_zeros(*present.shape, *flat.shape[1:])
    return padded.masked_scatter(present.reshape(*present.shape, *[1] * (flat.dim() - 1)), flat)
