"""Token rows to padded tensors."""

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
