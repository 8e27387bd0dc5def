"""RMSNorm as one operation, of which torch has a kernel on a GPU, for it and its gradient.

A model's own takes six, and its gradient ten; on a GPU starting them takes longer than computing them.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from engine.models.states import near


@cache
def _fused(kind: Any) -> Any:
    class Fused(kind):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return rms_norm(hidden_states, hidden_states.shape[-1:], self.weight, self.variance_epsilon)

    Fused.__name__ = kind.__name__
    return Fused


@torch.no_grad()
def fuse_norms(model: nn.Module) -> None:
    """Have those norms of `model` computed so of which it is the same."""
    kinds: dict[type, bool] = {}
    for module in model.modules():
        names = [name for name, _ in module.named_parameters()]
        if names != ["weight"] or not hasattr(module, "variance_epsilon"):
            continue
        kind: Any = type(module)
        if kind not in kinds:
            weight: Any = module.weight
            x = torch.linspace(-2, 3, len(weight)).to(weight).unsqueeze(0)
            kinds[kind] = near(_fused(kind).forward(module, x), module(x), 1)
        if kinds[kind]:
            module.__class__ = _fused(kind)
