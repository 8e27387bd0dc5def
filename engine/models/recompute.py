"""Blocks that keep only what goes into them for the way back and are computed again there (Chen et al. 2016).

Activations then take one block's room instead of all blocks', for a third more time.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.checkpoint import checkpoint

_recomputed: WeakSet[Any] = WeakSet()  # models


def recompute(model: Any) -> None:
    """From now on compute the blocks of `model` again on the way back."""
    _recomputed.add(model)


@contextmanager
def recomputing(model: Any, surroundings: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """For a pass in here whose gradient is wanted; on the way back blocks find the `surroundings` they had."""
    if model not in _recomputed or not torch.is_grad_enabled():
        yield
        return
    decoder = model.get_decoder()
    blocks = list(getattr(decoder, "layers", getattr(decoder, "h", [])))
    again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), surroundings()))
    for block in blocks:
        block.forward = partial(again, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
