"""The step on a GPU: recorded once, as a CUDA graph, and played back for every token.

A step is several hundred small operations, and a host that starts them one by one takes longer than the GPU that
computes them. A graph starts all of them in one call, but does the same to the same memory each time. So rows stand
in a `Room` whose memory stays from one batch of answers to the next, and how far they are is read from memory.
Anywhere but on a GPU the same is computed without a record.
"""

import logging
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from engine.models.graphs import record
from engine.sampling.blocks import Turns, norm
from engine.sampling.stacked import Stacks
from engine.sampling.steps import Head, OwnSteps

log = logging.getLogger("engine")

ALIGNED = 64  # a room's width is a multiple: attention's kernels want one, and prompts may be a little longer next time


class Room:
    """Where the rows of a model's answers stand: `rows` of `width` tokens at most."""

    def __init__(self, model: Any, stacks: Stacks, rows: int, width: int, like: Tensor):
        decoder = model.get_decoder()
        self.embed, self.norm, self.stacks = decoder.embed_tokens, decoder.norm, stacks
        self.rows, self.width = rows, width
        heads, head = like.shape[1], like.shape[-1]
        self.cache = [like.new_zeros(rows, 2 * heads, width, head) for _ in stacks.blocks]  # keys, then values
        self.turns = Turns(decoder, stacks.blocks[0], like, width)
        self.tokens = torch.zeros(rows, dtype=torch.long, device=like.device)
        self.padding = torch.zeros_like(self.tokens)  # columns to the left of each row's prompt
        self.at = torch.zeros(1, dtype=torch.long, device=like.device)  # the column that is written now
        self.columns = torch.arange(width, device=like.device)
        # (graph, what it leaves) by rows and adapters; None where there can be no record
        self.recorded: dict[tuple, tuple[Any, Tensor] | None] = {}
        self.user: Any = None  # whose rows stand here now
        self.adapters: tuple = ()  # the kinds that are on

    def refresh(self) -> None:
        self.adapters = self.stacks.refresh(self.turns.cos)

    def step(self, rows: int) -> Tensor:
        """The last hidden states [rows, width] of the first `rows` rows after their `tokens`, in column `at`."""
        padding = self.padding[:rows]
        cos, sin = self.turns.at((self.at - padding).clamp_min(0))
        seen = (self.columns >= padding.unsqueeze(-1)) & (self.columns <= self.at)
        mask = torch.zeros_like(seen, dtype=cos.dtype).masked_fill(~seen, -torch.inf)[:, None, None]
        x = self.embed(self.tokens[:rows])
        for block, whole in zip(self.stacks.blocks, self.cache, strict=True):

            def cache(new: Tensor, whole: Tensor = whole[:rows]) -> tuple[Tensor, Tensor]:
                whole.index_copy_(2, self.at, new.unsqueeze(2))
                keys, values = whole.chunk(2, 1)
                return keys, values

            x = block(x, cos, sin, mask, cache)
        return norm(self.norm, x)

    def play(self, rows: int) -> Tensor:
        """`step`, recorded where that was not done before."""
        if not self.at.is_cuda:
            return self.step(rows)
        kind = (rows, self.adapters)
        if kind not in self.recorded:
            try:
                self.recorded[kind] = self._record(rows)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("Answers take longer here: a step could not be recorded (%s).", str(error).split("\n")[0])
                self.recorded[kind] = None
        kept = self.recorded[kind]
        if kept is None:
            return self.step(rows)
        graph, out = kept
        graph.replay()
        return out

    def _record(self, rows: int) -> tuple[Any, Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.step(rows)  # libraries set themselves up the first time; the same column is written again after it
        torch.cuda.current_stream().wait_stream(aside)
        pool = next((kept[0].pool() for kept in self.recorded.values() if kept), None)  # one plays at a time
        return record(partial(self.step, rows), pool)


_rooms: WeakKeyDictionary[Any, Room] = WeakKeyDictionary()


def _room(model: Any, rows: int, columns: int, like: Tensor) -> Room:
    """The model's room if it has one that fits and is not twice too wide, else a new one."""
    room = _rooms.pop(model, None)
    stacks = room.stacks if room and room.stacks.still_fit() else None
    if room and stacks:
        rows = max(rows, room.rows)
        if rows == room.rows and columns <= room.width <= 2 * max(columns, ALIGNED):
            _rooms[model] = room
            return room
        if columns > room.width:
            columns = max(columns, room.width + room.width // 4)  # a conversation that grows shall not move every time
    room = None  # its memory first
    if stacks is None:
        stacks = Stacks(model)
        if like.is_cuda:
            torch.cuda.empty_cache()  # of the weights where they lay before
    _rooms[model] = Room(model, stacks, rows, -(-columns // ALIGNED) * ALIGNED, like)
    return _rooms[model]


class RecordedSteps:
    """By a recorded step, going on from prompts that the model's own pass has read. One batch of a model at a time."""

    head: Head = None
    leaving, ahead = 0.5, True  # what is played has fixed sizes, and reading the weights takes most of the time

    def __init__(self, own: OwnSteps, room: int):
        # Until the first token: the room knows its user, and must not keep the model, which keeps the room.
        self.own: OwnSteps | None = own
        self.more = room
        self.rows, self.at = len(own.mask), own.mask.shape[-1]

    def _move_in(self, own: OwnSteps) -> None:
        layers: list[Any] = own.cache.layers
        self.room = _room(own.model, self.rows, self.at + self.more, layers[0].keys)
        self.room.user = self
        self.room.refresh()
        self.size = self.rows
        self.room.padding[: self.rows] = self.at - 1 - own.positions[:, -1]
        for layer, whole in zip(layers, self.room.cache, strict=True):
            for new, part in zip((layer.keys, layer.values), whole.chunk(2, 1), strict=True):
                part[: self.rows, :, : self.at] = new

    def next(self, tokens: Tensor) -> Tensor:
        if self.own is not None:
            self._move_in(self.own)
            self.own = None
        if self.room.user is not self:
            raise RuntimeError("another batch of this model's answers has begun")
        self.room.tokens[: self.rows] = tokens
        self.room.at.fill_(self.at)
        self.at += 1
        return self.room.play(self.size)[: self.rows].clone()

    def keep(self, rows: Tensor) -> None:
        self.rows = len(rows)
        if self.own is not None:
            self.own.keep(rows)
            return
        for whole in (*self.room.cache, self.room.padding):
            whole[: self.rows] = whole[rows]
        self.size = min(self.size, 1 << (self.rows - 1).bit_length())  # few sizes, so that few are recorded
