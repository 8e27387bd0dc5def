"""A learned shift of a model's logits: beta (Q - V), by which a policy of implicit Q-learning answers.

Snell et al. 2022, section 4.4: pi(a | s) is proportional to pi_beta(a | s) exp(beta (Q(s, a) - V(s))).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.errors import UserError
from engine.machine import LOGITS
from engine.models.heads import WIDTH, ScalarHead

FILE = "shift.safetensors"


class QHead(nn.Module):
    """hidden [..., width] -> Q of every token [..., vocabulary], through a bottleneck that keeps it small.

    States are taken times `scale`, as in all heads (`engine.models.heads`).
    """

    scale: Tensor

    def __init__(self, width: int, bottleneck: int, vocabulary: int, scale: float = 1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.inner = nn.Linear(width, bottleneck)
        with torch.no_grad():  # what comes out spreads as in a model no wider than the built-in one
            self.inner.weight.mul_(max(1.0, width / WIDTH))
        self.outer = nn.Linear(bottleneck, vocabulary)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.outer(self._inside(hidden))

    def _inside(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.inner(self.scale * hidden.float()))

    def of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Q [tokens] of `ids` [tokens] alone, from `hidden` [tokens, width]."""
        return (self._inside(hidden) * self.outer.weight[ids]).sum(-1) + self.outer.bias[ids]

    def log_sum_exp(self, hidden: Tensor) -> Tensor:
        """Of every token's Q: [tokens] from `hidden` [tokens, width], few tokens at a time. Nothing over tokens and
        vocabulary is kept for the way back, where it is computed again."""
        size = max(1, LOGITS // self.outer.out_features)
        parts = [checkpoint(self._log_sum_exp, part, use_reentrant=False) for part in hidden.split(size)]
        return torch.cat(parts)

    def _log_sum_exp(self, hidden: Tensor) -> Tensor:
        return self(hidden).logsumexp(-1)


class AdvantageShift(nn.Module):
    """beta (min(Q1, Q2) - V) of every token, to be added to the logits."""

    def __init__(self, width: int, bottleneck: int, vocabulary: int, beta: float, scale: float = 1.0):
        super().__init__()
        self.q1 = QHead(width, bottleneck, vocabulary, scale)
        self.q2 = QHead(width, bottleneck, vocabulary, scale)
        self.v = ScalarHead(width, scale=scale)
        self.register_buffer("beta", torch.tensor(float(beta)))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> [..., vocabulary]."""
        return self.beta * (torch.minimum(self.q1(hidden), self.q2(hidden)) - self.v(hidden))

    def save(self, folder: Path) -> None:
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, folder / FILE)


def load_shift(folder: Path, device: torch.device) -> AdvantageShift | None:
    """The shift saved beside an adapter; None where there is none."""
    if not (folder / FILE).is_file():
        return None
    state = load_file(folder / FILE)
    if "v.scale" not in state:
        raise UserError(f"{folder.name} is of an earlier version of the studio. Train it anew with Q-learning.")
    bottleneck, width = state["q1.inner.weight"].shape
    shift = AdvantageShift(width, bottleneck, len(state["q1.outer.bias"]), float(state["beta"]))
    shift.load_state_dict(state)
    return shift.requires_grad_(False).to(device)
