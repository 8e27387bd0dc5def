"""What this machine has in use and suits it, and how this process keeps its memory. Needs no torch."""

import ctypes
import sys
from functools import cache
from typing import Any, Literal

import psutil
import pynvml

Precision = Literal["auto", "float32", "bf16", "float16", "nf4"]
PACKED_BYTES = 256 << 20  # of weights that sampling holds twice at most, once laid out for its steps
MAPPED = 1 << 25  # bytes from which on a piece of memory goes back to the system when it is freed, come what may
LOGITS = 1 << 25  # at a time, where the log-probs of given tokens are computed: 128 MB in float32


def memory_in_use(device: str = "cpu") -> dict[str, float]:
    """Memory in GB, {"used", "total"}: the first GPU's where `device` is "cuda", else the machine's."""
    if device == "cuda" and (gpu := _first_gpu()):
        held = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        return {"used": held.used / 1e9, "total": held.total / 1e9}
    memory = psutil.virtual_memory()
    return {"used": (memory.total - memory.available) / 1e9, "total": memory.total / 1e9}


@cache
def _first_gpu() -> Any:
    """NVML's handle; None for a GPU of another maker, or where there is no driver."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next request, where it is glibc; elsewhere nothing happens.

    A training pass asks for the same tens of megabytes again and again. By default each such block goes back to the
    system and comes back as pages that must be cleared, which took a fifth of a PPO update on the pocket model.
    """
    _set_malloc(mmap_threshold=MAPPED, trim_threshold=2**31 - 1)  # some versions refuse a larger first


def give_freed_memory_back() -> None:
    """Have the C library give what is freed back to the system at once: slower, without gaps between what is in use.

    A PPO update of a 768 x 8 Llama whose blocks are computed again held 814 MB, 462 of them in use. Clearing the pages
    that come back takes about half of the time that the passes do.
    """
    _set_malloc(mmap_threshold=1 << 16, trim_threshold=1 << 17)


def _set_malloc(mmap_threshold: int, trim_threshold: int) -> None:
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(-3, mmap_threshold)  # the numbers are those of mallopt(3)
            mallopt(-1, trim_threshold)
