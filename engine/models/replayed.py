"""Passes on a GPU that are recorded, there and back, and played from then on.

A pass with gradients is thousands of small operations, and for models up to some billions of parameters a host takes
several times as long to start them one by one as the GPU takes to compute them. A CUDA graph starts all of them in
one call, but does the same to the same memory each time: so it is one of long rows (`layout`) of one size, and rows
that are somewhat shorter are put into it. A pass for which it is the GPU that is waited for is left as it is.
Anywhere but on a GPU the same is computed without a record.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from engine.models.graphs import record
from engine.models.layout import Layout
from engine.models.lora import active, base_of
from engine.models.plain import is_plain, linears

log = logging.getLogger("engine")

Work = Callable[[Layout], Tensor]  # a pass: last hidden states [tokens, width] of a long row

DEVICES = {"cuda"}
WAITS = 0.2  # share of a pass that the host waits for the GPU, above which it is not the host that takes the time
SPARE = 2  # times what a pass keeps for its way back that has to be free beside it: a record holds it for good
BEFORE = 2  # times that a pass of a size comes before it is recorded: not all that comes once comes again
MOST = 32  # passes of a model that are kept


def roomy(size: int) -> int:
    """At least `size`, and at most a quarter more: one of few sizes, so that few passes are recorded."""
    step = max(16, (1 << (size - 1).bit_length()) // 8)
    return -(-size // step) * step


def _free() -> int:
    """Bytes of the GPU's memory that torch may still take."""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    allowed = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(free, allowed - reserved) + reserved - torch.cuda.memory_allocated()


def _watched(plain: Callable[[], Tensor], layout: Layout) -> tuple[Tensor, bool]:
    """(a pass's states, whether it is the host that it takes its time for, and there is memory for a record)."""
    if not layout.ids.is_cuda:
        return plain(), True
    before = torch.cuda.memory_allocated()
    torch.cuda.synchronize()
    began = time.perf_counter()
    states = plain()
    started = time.perf_counter()
    torch.cuda.synchronize()
    ended = time.perf_counter()
    kept = torch.cuda.memory_allocated() - before
    return states, ended - started <= WAITS * (ended - began) and _free() >= SPARE * kept


@contextmanager
def _leaves(model: Any, weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Has the adapters of `model` compute with other leaves of the graph, in the memory of `weights`.

    torch brings a leaf's gradient to the stream that first used it, and while any loss of before is still held, that
    is not the one that records, which ends the record.
    """
    leaves = [nn.Parameter(w.detach()) for w in weights]
    new = dict(zip(map(id, weights), leaves, strict=True))
    parts = [part for layer in linears(model.get_decoder().layers) if hasattr(layer, "lora_A")
             for part in (*layer.lora_A.values(), *layer.lora_B.values())]  # fmt: skip
    kept = [(part, part.weight) for part in parts if id(part.weight) in new]
    for part, weight in kept:
        part.weight = new[id(weight)]
    try:
        yield leaves
    finally:
        for part, weight in kept:
            part.weight = weight


class _Once:
    """That a pass has gone there, and its way back is still to come."""


class Pass:
    """A pass over long rows of up to `tokens`, whose attention sees `rows` of up to `width`.

    weights: what takes gradients; without any there is no way back. like: a pass of another size of the same weights.
    """

    def __init__(
        self, rows: int, width: int, tokens: int, weights: list[nn.Parameter], like: "Pass | None", device: torch.device
    ):
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.long, device=device)

        # What is left in here of longer rows does no harm: it is computed, and nobody looks at it.
        self.layout = Layout(zeros(tokens), zeros(tokens), [zeros(rows, width)], zeros(tokens), zeros(0))
        self.weights = weights
        # Their gradients, end to end; they are copied from here before another pass of these weights comes.
        self.found: Tensor = like.found if like else torch.zeros(sum(w.numel() for w in weights), device=device)
        self.states = self.into = self.found  # the states [tokens, width of the model], and what comes back into them
        self.graphs: list[Any] = []
        self.flying: ref[_Once] | None = None  # there and not yet back: what it keeps for the way back is in use

    @property
    def away(self) -> bool:
        return self.flying is not None and self.flying() is not None

    def take(self, layout: Layout) -> None:
        tokens, width = len(layout.ids), layout.groups[0].shape[1]
        self.layout.ids[:tokens] = layout.ids
        self.layout.positions[:tokens] = layout.positions
        self.layout.groups[0][:, :width] = layout.groups[0]
        wide = self.layout.groups[0].shape[1]
        self.layout.cells[:tokens] = layout.cells + (layout.cells // width) * (wide - width)

    def prepare(self, model: Any, work: Work, pool: Any) -> None:
        """Record it, in the memory of another graph's `pool` if there is one. Raises RuntimeError where it cannot."""
        if not self.found.is_cuda:
            return
        states = work(self.layout)  # libraries set themselves up the first time
        if self.weights:
            self._gradients(states, torch.zeros_like(states), self.weights)
        del states
        with _leaves(model, self.weights) as leaves:
            there, self.states = record(lambda: work(self.layout), pool)
            self.graphs = [there]
            if leaves:
                self.into = torch.zeros_like(self.states)
                back, _ = record(lambda: self._gradients(self.states, self.into, leaves), there.pool())
                self.graphs.append(back)
            self.states = self.states.detach()

    def _gradients(self, states: Tensor, into: Tensor, leaves: list[nn.Parameter]) -> None:
        parts = self.found.split([w.numel() for w in leaves])
        places = [part.view_as(w) for part, w in zip(parts, leaves, strict=True)]
        torch._foreach_copy_(places, list(torch.autograd.grad(states, leaves, into)))

    def play(self, work: Work) -> Tensor:
        """The states [tokens, width of the model] of what it has taken, with gradients."""
        return _Played.apply(self, work, *self.weights)

    def there(self, work: Work) -> Tensor:
        if self.graphs:
            self.graphs[0].replay()
        else:
            with torch.set_grad_enabled(bool(self.weights)):
                self.states = work(self.layout)
        return self.states.detach().clone()

    def back(self, into: Tensor) -> list[Tensor]:
        """The gradient of each of `weights`."""
        if self.graphs:
            self.into.copy_(into)
            self.graphs[1].replay()
        else:
            self._gradients(self.states, into, self.weights)
            self.states = self.found  # what led there is not needed any more
        parts = self.found.clone().split([w.numel() for w in self.weights])
        return [part.view_as(w) for part, w in zip(parts, self.weights, strict=True)]


class _Played(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, played: Pass, work: Work, *weights: Tensor) -> Tensor:
        ctx.played, ctx.once = played, _Once()
        played.flying = ref(ctx.once)
        return played.there(work)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.once is None:
            raise RuntimeError("a played pass can go back only once")
        ctx.once = None
        return (None, None, *ctx.played.back(gradients[0]))


class Passes:
    """The passes of one plain model that were recorded, by their size and by what is computed with which weights."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int]] = []  # where the base's weights lie: records know them by that
        self.seen: Counter[tuple] = Counter()
        self.kept: OrderedDict[tuple, Pass | None] = OrderedDict()  # None where a record does not pay
        self.able = True

    def states(self, model: Any, layout: Layout, whole: Work, plain: Callable[[], Tensor]) -> Tensor:
        rows, width = layout.groups[0].shape
        weights = self._weights(model)
        if weights is None or len(layout.groups) > 1:
            return plain()
        adapters, trained = weights
        if any(other.away for other in self._alike(trained)):
            return plain()
        size = (rows, roomy(width), roomy(len(layout.ids)))
        kind = (*size, adapters, bool(trained))
        self.seen[kind] += 1
        if self.seen[kind] < BEFORE:
            return plain()
        if self.seen[kind] == BEFORE:
            states, pays = _watched(plain, layout)
            if not pays:
                self.kept[kind] = None
            return states
        if kind not in self.kept:
            like = next((other for key, other in self.kept.items() if other and key[3:] == kind[3:]), None)
            self.kept[kind] = self._new(Pass(*size, trained, like, layout.ids.device), model, layout, whole)
            if len(self.kept) > MOST:
                self.kept.popitem(last=False)
        played = self.kept.get(kind)
        if played is None:
            return plain()
        self.kept.move_to_end(kind)
        played.take(layout)
        return played.play(whole)

    def _weights(self, model: Any) -> tuple[tuple, list[nn.Parameter]] | None:
        """(which adapters are on, their weights that take gradients); None where other weights take some."""
        layers = linears(model.get_decoder().layers)
        places = [(id(layer), base_of(layer).weight.data_ptr()) for layer in layers]
        if places != self.places:
            self.forget()
            self.places = places
        try:
            adapters = [found for layer in layers if (found := active(layer))]
        except ValueError:
            return None
        if base_of(layers[0]).weight.requires_grad:
            return None
        weights: list[Any] = [weight for a, b, _ in adapters for weight in (a, b)]
        trained = [w for w in weights if w.requires_grad] if torch.is_grad_enabled() else []
        return tuple((a.data_ptr(), b.data_ptr(), len(a), scale) for a, b, scale in adapters), trained

    def _alike(self, trained: list[nn.Parameter]) -> list[Pass]:
        """Those that share memory: the ones that go back share what they keep for that, and so do the others."""
        return [played for played in self.kept.values() if played and bool(played.weights) == bool(trained)]

    def _new(self, new: Pass, model: Any, layout: Layout, work: Work) -> Pass | None:
        new.take(layout)
        try:
            graphs = [graph for other in self._alike(new.weights) for graph in other.graphs]
            new.prepare(model, work, graphs[0].pool() if graphs else None)
            return new
        except torch.OutOfMemoryError:
            log.info("There is not the memory to record passes.")
        except RuntimeError as error:
            log.warning("Training takes longer here: a pass could not be recorded (%s).", str(error).split("\n")[0])
            log.debug("What led to it:", exc_info=error)
        self.forget()
        self.able = False
        return None

    def forget(self) -> None:
        self.kept.clear()
        self.seen.clear()


_passes: WeakKeyDictionary[Any, Passes | None] = WeakKeyDictionary()  # None for models that are not plain


def states_of(model: Any, layout: Layout, whole: Work, plain: Callable[[], Tensor]) -> Tensor:
    """The last hidden states [tokens or more, width] of `layout`: by a recorded pass where there is one, `whole` being
    what is recorded, else by `plain`, which may leave out what nobody needs."""
    if layout.ids.device.type not in DEVICES:
        return plain()
    if model not in _passes:
        _passes[model] = Passes() if is_plain(model) else None
    passes = _passes[model]
    return passes.states(model, layout, whole, plain) if passes and passes.able else plain()


def forget_passes() -> None:
    """Give back the memory of all recorded passes; they are recorded anew when they come again."""
    for passes in _passes.values():
        if passes:
            passes.forget()
