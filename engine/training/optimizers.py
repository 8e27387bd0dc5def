"""The optimiser of every method that trains adapters, and how it steps."""

import math
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError

LEAST_SCALE = 2.0**-8  # a loss that overflows float16 even when made this small is itself no number


def adamw(parameters: Any, kind: str, rate: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over parameters or groups of them; groups may have rates of their own.

    kind: "adamw", or "adamw-8bit", whose moments are kept in 8 bits, block by block (Dettmers et al. 2022).
    """
    if kind == "adamw-8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=rate, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)


def check_finite(norm: float) -> None:
    """Raises UserError where a gradient's norm is no number: a step would make the weights the same."""
    if not math.isfinite(norm):
        raise UserError("Training broke down: its gradients are no longer numbers. Start with a lower learning rate.")


class Steps:
    """Losses on their way back, in parts, and a step once all are there.

    A base that computes in float16 (`half`) rounds small gradients to zero: losses on it are scaled up on their way
    back, and a step whose gradients overflowed is left out and the scale halved (Micikevicius et al. 2018, section
    3.2).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, limit: float, half: bool):
        self.optimizer, self.limit = optimizer, limit
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.trained[0].device.type, init_scale=2.0**12, enabled=half)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scale": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scale"])

    def back(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those that are there."""
        self.scaler.scale(loss).backward()

    def forget(self) -> None:
        """Drop the gradients that are there."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(self) -> float:
        """One step with the gradient's norm held to `limit`, and the gradients are gone; returns the norm before.

        Raises UserError, the weights as they were, where training has broken down.
        """
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.limit))
        if not self.scaler.is_enabled() or self.scaler.get_scale() < LEAST_SCALE:
            check_finite(norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget()
        return norm
