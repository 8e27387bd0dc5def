"""Blocks that keep only what goes into them for the way back and are computed again there (Chen et al. 2016).

Activations then take one block's room instead of all blocks', for a third more time; on a CPU, where what is freed
then goes back to the system at once, for up to twice the time.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.checkpoint import checkpoint

Surroundings = Callable[[], AbstractContextManager]
_recomputed: WeakKeyDictionary[Any, Callable[[], Surroundings]] = WeakKeyDictionary()


def recompute(model: Any, as_now: Callable[[], Surroundings]) -> None:
    """From now on compute the blocks of `model` again on the way back.

    `as_now` is called at every pass; what it returns brings back, while it is entered, what `model` was then.
    """
    _recomputed[model] = as_now


def recomputes(model: Any) -> bool:
    return model in _recomputed


@contextmanager
def recomputing(model: Any, surroundings: Surroundings) -> Iterator[None]:
    """For a pass in here whose gradient is wanted; on the way back blocks find the `surroundings` they had."""
    if not recomputes(model) or not torch.is_grad_enabled():
        yield
        return
    before = _recomputed[model]()

    @contextmanager
    def once_more() -> Iterator[None]:
        with before(), surroundings():
            yield

    decoder = model.get_decoder()
    blocks = list(getattr(decoder, "layers", getattr(decoder, "h", [])))
    again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), once_more()))
    for block in blocks:
        block.forward = partial(again, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
