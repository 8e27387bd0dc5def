"""The pass that gives one more token to every row: the model's own, or the same in far fewer calls.

The model's own copies the whole cache to make it a token longer. `LeanSteps` does the arithmetic of `blocks` on a cache
with room for the whole answer, a small model's with weights laid out for it (`packed`).
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from engine.sampling.blocks import Block, Linears, Turns, norm
from engine.sampling.packed import Packed, packed_head, packs

Head = Callable[[Tensor], Tensor] | None


class Steps(Protocol):
    """Rows that are being written, their keys and values kept."""

    leaving: float  # share of the rows still going at which the others are worth taking out
    ahead: bool  # whether the device goes on computing while the host looks at what it has
    head: Head  # what gives logits faster than the model's own head, where there is one

    def next(self, tokens: Tensor) -> Tensor:
        """The last hidden states [rows, width] after `tokens` [rows], each row's newest."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` alone, in that order. Before the first token a row may come more than once."""
        ...


class OwnSteps:
    """By the model's own forward pass."""

    leaving, ahead = 0.75, False  # leaving costs a copy of the cache
    head: Head = None

    def __init__(self, model: Any, ids: Tensor, mask: Tensor):
        self.model, self.mask = model, mask
        self.cache = DynamicCache(config=model.config)
        self.positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
        self.first = self._pass(ids)  # [rows, width], after the prompts

    def _pass(self, ids: Tensor) -> Tensor:
        return self.model.get_decoder()(
            input_ids=ids,
            attention_mask=self.mask.long(),
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )[0][:, -1]

    def next(self, tokens: Tensor) -> Tensor:
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], -1)
        return self._pass(tokens.unsqueeze(-1))

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(cast(torch.LongTensor, rows))  # the way that layers with other states know too
        self.mask, self.positions = self.mask[rows], self.positions[rows]


class LeanSteps:
    """By the arithmetic of Llama-like blocks, going on from prompts that the model's own pass has read."""

    ahead = False

    def __init__(self, own: OwnSteps, room: int):
        decoder, packing = own.model.get_decoder(), packs(own.model)
        self.embed, self.norm = decoder.embed_tokens, decoder.norm
        self.blocks = [Block(block, Packed if packing else Linears) for block in decoder.layers]
        self.head: Head = packed_head(own.model) if packing else None
        # oneDNN sets itself up for every number of rows, so there had better be few.
        self.leaving = 0.5 if packing else OwnSteps.leaving
        self.width = own.mask.shape[-1]  # of the cache, so far
        self.positions = own.positions[:, -1]
        self.mask = nn.functional.pad(own.mask, (0, room), value=True)
        layers: list[Any] = own.cache.layers
        self.cache = [nn.functional.pad(torch.cat([x.keys, x.values], 1), (0, 0, 0, room)) for x in layers]
        self.turns = Turns(decoder, self.blocks[0], layers[0].keys, int(self.positions.max()) + room + 1)

    def next(self, tokens: Tensor) -> Tensor:
        self.positions = self.positions + 1
        at, self.width = self.width, self.width + 1
        cos, sin = self.turns.at(self.positions)
        mask = self.mask[:, None, None, : self.width]
        x = self.embed(tokens)
        for block, whole in zip(self.blocks, self.cache, strict=True):

            def cache(new: Tensor, whole: Tensor = whole) -> tuple[Tensor, Tensor]:
                whole[:, :, at] = new
                keys, values = whole[:, :, : self.width].chunk(2, 1)
                return keys, values

            x = block(x, cos, sin, mask, cache)
        return norm(self.norm, x)

    def keep(self, rows: Tensor) -> None:
        for i, whole in enumerate(self.cache):  # each by itself, so that all are not there twice
            self.cache[i] = whole[rows]
        self.mask, self.positions = self.mask[rows], self.positions[rows]
