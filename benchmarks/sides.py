"""What the comparisons with peers share: each side runs in a process of its own, in turn, and prints JSON."""

import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

import psutil
import torch

GPU = torch.cuda.is_available()


def alternate(script: str, sides: tuple[str, ...], seeds: list[int], *options: str) -> dict[str, list[dict]]:
    """Run `script --side S --seed N` for every seed and side, A B A B ...; what each printed last, by side."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for seed in seeds:
        for side in sides:
            command = [sys.executable, script, "--side", side, "--seed", str(seed), *options]
            environment = {
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "TRL_EXPERIMENTAL_SILENCE": "1",
                "PYTHONWARNINGS": "ignore",
            }
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def middle(rows: list[dict], key: str) -> float:
    return median(row[key] for row in rows)


def resident() -> float:
    """Megabytes in memory now; on a GPU what torch holds there."""
    if GPU:
        return torch.cuda.memory_reserved() / 2**20
    return psutil.Process().memory_info().rss / 2**20


def peak() -> float:
    """Megabytes in memory at most so far. Linux's own count, which misses no short peak; torch's on a GPU."""
    if GPU:
        return torch.cuda.max_memory_reserved() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def line(work: str, ours: float, theirs: float, ratio: float, target: str, held: bool | None, **more: Any) -> dict:
    """One row of the table of `make bench`, printed as JSON; held is None where nothing is to be held."""
    row = {"work": work, "ours": round(ours, 3), "theirs": round(theirs, 3), "ratio": round(ratio, 3), "target": target,
           "held": held, **more}  # fmt: skip
    print(json.dumps(row), flush=True)
    return row
