"""The optimiser of every method that trains adapters."""

from typing import Any

import torch


def adamw(parameters: Any, kind: str, rate: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over parameters or groups of them; groups may have rates of their own.

    kind: "adamw", or "adamw-8bit", whose moments are kept in 8 bits, block by block (Dettmers et al. 2022).
    """
    if kind == "adamw-8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=rate, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)
