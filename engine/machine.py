"""What this machine has in use. Needs no torch."""

import psutil


def memory_in_use() -> dict[str, float]:
    """The machine's memory in GB, {"used", "total"}."""
    memory = psutil.virtual_memory()
    return {"used": (memory.total - memory.available) / 1e9, "total": memory.total / 1e9}
