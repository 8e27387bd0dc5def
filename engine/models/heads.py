"""Heads on a model's hidden states: small, float32, kept beside the adapter that they belong to."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from engine.errors import UserError, whole


class ScalarHead(nn.Module):
    """hidden [..., width] -> `count` scores [..., count], in float32 whatever the base computes in."""

    def __init__(self, width: int, count: int = 1):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden.float())


SPAN = 1.8  # how wide the gates' first arguments spread: much less and they differ little, much more and tanh is flat
TYPICAL = 16  # tokens of an answer whose length counts as neither short nor long


class RewardHead(nn.Module):
    """Scores of an answer: (w + V tanh(U q))^T [h, l] + b, of the states q after the question and h after the answer,
    and of the answer's length, l = sqrt(width) log(tokens / 16). (Times sqrt(width), for that one number has to weigh
    against the `width` numbers of a state, whose norm is of that order, or it is learnt far more slowly than they are.)

    What is liked may depend on what was asked, which a model need not know any more once it has answered. So the
    weights on h turn with q, by way of `gates` numbers (as a prompt weighs a reward's aims in Wang et al. 2024,
    "Interpretable preferences via multi-objective reward modeling and mixture-of-experts", section 2.2). V starts at
    zero. q is brought to a mean square of 1, for models differ in that, and no gradient goes through it: the head
    reads what was asked and does not change how it is seen. With no gates it is linear in h and l.

    A state says of an answer's length little more than whether it is short or long, which a person sees at a glance.
    Told it, the head needs no feedback to find it out, and does not take what short answers happen to say for what is
    liked. (Chen et al. 2024, "ODIN", give length a head of its own as well, but to leave it out.) Without `told_length`
    l is 0, and so its weights stay.
    """

    told: Tensor  # what the length's logarithm is taken times

    def __init__(self, width: int, count: int = 1, gates: int = 0, seed: int = 0, told_length: bool = True):
        super().__init__()
        self.count = count
        self.register_buffer("told", torch.tensor(width**0.5 if told_length else 0.0))
        random = torch.randn(gates, width, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(torch.zeros(count, width + 1))
        self.bias = nn.Parameter(torch.zeros(count))
        self.asked = nn.Parameter(SPAN * random / width**0.5)
        self.turned = nn.Parameter(torch.zeros(count, gates, width + 1))

    def forward(self, question: Tensor, answer: Tensor, tokens: Tensor) -> Tensor:
        """Scores [..., count] of states [..., width] and of how many tokens [...] the answer has, at least 1."""
        question = rms_norm(question.detach().float(), question.shape[-1:])
        gates = torch.tanh(question @ self.asked.t())
        weights = self.weight + torch.einsum("...g,cgw->...cw", gates, self.turned)
        length = self.told * torch.log(tokens / TYPICAL)
        seen = torch.cat([answer.float(), length.unsqueeze(-1)], -1)
        return (weights * seen.unsqueeze(-2)).sum(-1) + self.bias

    def save(self, folder: Path) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "reward_head.safetensors")

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "RewardHead":
        """Raises UserError for the head of an earlier version of the studio."""
        with whole(folder / "reward_head.safetensors", "Train a new reward model."):
            state = load_file(folder / "reward_head.safetensors")
        if "told" not in state:
            raise UserError(f"The reward model in {folder} is of an earlier version of the studio. Train a new one.")
        head = cls(state["asked"].shape[1], *state["turned"].shape[:2])
        head.load_state_dict(state)
        return head.requires_grad_(False).to(device)
