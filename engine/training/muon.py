"""Muon: steps whose singular values are all alike, for the matrices inside a model (Jordan et al. 2024).

The momentum of a matrix's gradient is orthogonalised by five steps of a quintic Newton-Schulz iteration, and scaled to
the size of AdamW's steps (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2). `torch.optim.Muon` does
the same, but always in bfloat16, which most CPUs have to emulate: on one without it four fifths of pretraining went
there. Here it is asked for, and matrices of one shape go together.
"""

from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the steepest at zero; values end within 0.7 to 1.2
STEPS = 5


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """U V^T, nearly, of each U S V^T in `matrices` [count, rows, columns], computed in `dtype`."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x.to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, its matrix products in `dtype`.

    Raises ValueError for what is not a matrix.
    """

    def __init__(
        self, params: Any, lr: float, weight_decay: float = 0.0, momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype
        if any(p.dim() != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon steps matrices alone.")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.shape, p.dtype, p.device), []).append(p)
            for (shape, *_), parameters in alike.items():
                size = 0.2 * max(shape) ** 0.5  # the root mean square of AdamW's steps
                ahead = torch.stack([self._look_ahead(p, group["momentum"]) for p in parameters])
                steps = orthogonalised(ahead, self.dtype)
                for p, step in zip(parameters, steps, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(step, alpha=-group["lr"] * size)

    def _look_ahead(self, p: Tensor, momentum: float) -> Tensor:
        """The mean of past gradients, brought up to date, with Nesterov's step ahead."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        mean = state["momentum_buffer"]
        mean.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)
