"""Batches taken in parts, so that they fit: when memory runs out the parts are halved and the step is done again."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from engine.models.replayed import forget_passes

log = logging.getLogger("engine")
Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, on a GPU or a CPU, could not get the memory it asked for."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


class Parts:
    """The size of a part: `size` rows, all of a batch where it is 0; less once memory has run out."""

    def __init__(self, size: int):
        self.size = size

    def each(self, rows: int, work: Callable[[int, int], Result], restart: Callable[[], None]) -> list[Result]:
        """work(start, end) for the parts of `rows` rows, in order.

        Where one runs out of memory, `restart` has to undo what the parts before it left (their gradients), and all
        are done again with half the size: the outcome is that of having begun so. Raises what a single row raises.
        """
        while True:
            size = min(self.size or rows, rows)
            try:
                return [work(start, min(start + size, rows)) for start in range(0, rows, size)]
            except Exception as error:
                if not out_of_memory(error) or size == 1:
                    raise
                self.size = size // 2
            # Outside of the handler, where the failed pass's tensors are still held by its traceback.
            restart()
            forget_passes()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning(
                "Memory ran out with %d rows at a time; going on with %d. The result is the same.", size, self.size
            )
