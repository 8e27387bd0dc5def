"""Mixed precision: weights and sums stay in float32, matrix products are of numbers rounded to bfloat16.

Where weights themselves are trained they have to stay in float32: a step of a thousandth of a weight is lost in
bfloat16's eight bits (Micikevicius et al. 2018, "Mixed precision training", section 3.1). It has float32's range, so
gradients need no scaling (Kalamkar et al. 2019, "A study of BFLOAT16 for deep learning training", section 3).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch

from engine.models.attention import IN_FLOAT32
from engine.models.states import attending

PAYS = 1.5  # how many times as fast products have to be
NARROW = 96  # width below which rounding takes back most of what it saves on a CPU
TRIED = 512  # rows and columns of the matrices that are tried


@cache
def pays(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices much faster than float32 ones: tried once."""
    taken = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(6):  # in turn, so that a slow moment of the machine is none's alone
        for dtype in taken:
            matrix = torch.ones(TRIED, TRIED, device=device, dtype=dtype)
            started = time.perf_counter()
            (matrix @ matrix).sum().item()
            taken[dtype] = min(taken[dtype], time.perf_counter() - started)
    return taken[torch.bfloat16] * PAYS < taken[torch.float32]


def suits(model: Any) -> bool:
    """Whether `model`, whose weights are trained, is trained faster so on its device."""
    weights = next(model.parameters())
    if weights.dtype != torch.float32:
        return False
    if weights.device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return model.config.get_text_config().hidden_size >= NARROW and pays(weights.device)


@contextmanager
def rounded(model: Any, on: bool) -> Iterator[None]:
    """Within, the products of passes through `model` are of bfloat16 numbers, if `on`."""
    device = next(model.parameters()).device
    apart = on and device.type == "cpu" and model.config.get_text_config()._attn_implementation == "sdpa"
    with (
        attending(model, IN_FLOAT32) if apart else nullcontext(),
        torch.autocast(device.type, torch.bfloat16, enabled=on),
    ):
        yield
