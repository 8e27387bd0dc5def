"""How rows of tokens stand side by side in one long row, what they begin alike with in it only once.

A causal model's state of a token depends on the tokens up to it alone, so rows that begin alike (the answers to one
prompt, conversations with one system prompt) share those states: the tokens of a batch are a tree, and the long row
holds each of its nodes once.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GROUPS, GROUP = 4, 4  # attention sees rows in so many groups of like length at most, of so many rows at least
GROUPS_ON_GPU = 1  # where starting an operation takes longer than computing for padding


class Layout(NamedTuple):
    """One long row for a batch of rows."""

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens], in their rows
    groups: list[Tensor]  # each [rows, width]: rows that attention sees together, which token is in each cell
    cells: Tensor  # [tokens], where each token is in the groups' cells, all rows of all groups in order
    nodes: Tensor  # [rows, time] of the batch: where its tokens are in the long row; 0 for padding


def lay_out(ids: Tensor, mask: Tensor) -> Layout:
    """The long row of `ids` [rows, time], real where `mask` is. A row's real tokens stand together."""
    kept, tokens = mask.cpu().numpy(), ids.cpu().numpy()
    lengths = kept.sum(-1)
    width = int(lengths.max())
    shifted = np.arange(width) < lengths[:, None]  # the same rows, moved to the left
    rows = np.full(shifted.shape, -1, np.int64)
    rows[shifted] = tokens[kept]

    # In sorted order what a row shares with any row before it, it shares with the one just before it.
    order = np.argsort(np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * width))).ravel())
    rows, lengths, shifted = rows[order], lengths[order], shifted[order]
    new = shifted.copy()
    new[1:] &= ~np.logical_and.accumulate(rows[1:] == rows[:-1], axis=1)
    number = np.where(new, new.cumsum().reshape(new.shape) - 1, -1)
    nodes = np.where(shifted, np.maximum.accumulate(number, axis=0), 0)  # a shared cell's node is the last new above it

    cells = np.empty(new.shape, np.int64)
    groups, before = [], 0
    most = GROUPS_ON_GPU if ids.is_cuda else GROUPS
    for group in np.array_split(np.argsort(lengths, kind="stable"), max(1, min(most, len(rows) // GROUP))):
        wide = int(lengths[group].max())
        groups.append(nodes[group, :wide])
        cells[group, :wide] = before + np.arange(len(group) * wide).reshape(len(group), wide)
        before += len(group) * wide

    places = np.zeros(kept.shape, np.int64)
    back = np.argsort(order)
    places[kept] = nodes[back][shifted[back]]

    def there(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(ids.device)

    return Layout(
        there(rows[new]),
        there(np.nonzero(new)[1]),
        [there(group) for group in groups],
        there(cells[new]),
        there(places),
    )
