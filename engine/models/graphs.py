"""CUDA graphs: work of the GPU that is recorded once and started in one call from then on."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def record(work: Callable[[], Result], pool: Any = None) -> tuple[Any, Result]:
    """(graph, what `work` returned) of `work`, which must have run before: libraries set themselves up the first time.

    Whenever the graph is played, the same is done to the same memory. `pool`: another graph's, whose memory it may
    share where the two never play at once. Raises RuntimeError where `work` cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with _nothing_collected(), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = work()
    return graph, result


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Python frees no cycles meanwhile: another model's graphs may be among them, and freeing those ends a record."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
