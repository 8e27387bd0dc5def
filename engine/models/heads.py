"""Heads on a model's hidden states: small, float32, kept beside the adapter that they belong to.

Adam moves a weight by about its learning rate, whatever the gradient's size, and so a linear head's output by that
times sum |h_i|: the further the wider the model is, and the larger its last norm's weights are. So heads take states
times a `scale` at which that sum is no larger than in the built-in model, on which their learning rates were found
(`state_scale`). Then a step takes a head no further on any base. (Yang et al. 2022, "Tensor programs V", table 3: with
Adam an output layer's rate goes with 1 / width.)
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from engine.errors import UserError, whole
from engine.models.states import real_states

WIDTH, REACH = 192, 240.0  # of the built-in model: its states' width and, rounded up, their mean sum |h_i|


@torch.no_grad()
def state_scale(model: nn.Module, ids: Tensor) -> float:
    """What heads take the states of `model` times, at most 1: small models' heads need no haste.

    ids: any text [time] that it can be expected to read.
    """
    row = ids.unsqueeze(0)
    states = real_states(model, row, torch.ones_like(row, dtype=torch.bool)).float()
    return min(1.0, float(REACH / states.abs().sum(-1).mean()))


def _narrower(width: int) -> float:
    """The same for a state of that width whose mean square is 1."""
    return min(1.0, WIDTH / width)


class ScalarHead(nn.Module):
    """hidden [..., width] -> `count` scores [..., count], in float32 whatever the base computes in."""

    scale: Tensor  # what states are taken times

    def __init__(self, width: int, count: int = 1, scale: float = 1.0):
        super().__init__()
        self.count = count
        self.register_buffer("scale", torch.tensor(scale))
        self.linear = nn.Linear(width, count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(self.scale * hidden.float())


SPAN = 1.8  # how wide the gates' first arguments spread: much less and they differ little, much more and tanh is flat
TYPICAL = 16  # tokens of an answer whose length counts as neither short nor long


class RewardHead(nn.Module):
    """Scores of an answer: (w + V tanh(U q))^T [h, l] + b, of the states q after the question and h after the answer,
    and of the answer's length, l = sqrt(192) log(tokens / 16). (Times that, for this one number has to weigh against
    all those of a state, whose norm in the built-in model is of that order, or it is learnt far more slowly.)

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
    scale: Tensor  # what h is taken times; q, whose mean square is 1, is taken times 192 / width in wider models

    def __init__(
        self, width: int, count: int = 1, gates: int = 0, seed: int = 0, told_length: bool = True, scale: float = 1.0
    ):
        super().__init__()
        self.count = count
        self.register_buffer("told", torch.tensor(WIDTH**0.5 if told_length else 0.0))
        self.register_buffer("scale", torch.tensor(scale))
        random = torch.randn(gates, width, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(torch.zeros(count, width + 1))
        self.bias = nn.Parameter(torch.zeros(count))
        self.asked = nn.Parameter(SPAN * random / (width**0.5 * _narrower(width)))
        self.turned = nn.Parameter(torch.zeros(count, gates, width + 1))

    def forward(self, question: Tensor, answer: Tensor, tokens: Tensor) -> Tensor:
        """Scores [..., count] of states [..., width] and of how many tokens [...] the answer has, at least 1."""
        question = rms_norm(question.detach().float(), question.shape[-1:]) * _narrower(question.shape[-1])
        gates = torch.tanh(question @ self.asked.t())
        weights = self.weight + torch.einsum("...g,cgw->...cw", gates, self.turned)
        length = self.told * torch.log(tokens / TYPICAL)
        seen = torch.cat([self.scale * answer.float(), length.unsqueeze(-1)], -1)
        return (weights * seen.unsqueeze(-2)).sum(-1) + self.bias

    def save(self, folder: Path) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "reward_head.safetensors")

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "RewardHead":
        """Raises UserError for the head of an earlier version of the studio."""
        with whole(folder / "reward_head.safetensors", "Train a new reward model."):
            state = load_file(folder / "reward_head.safetensors")
        if "scale" not in state:
            raise UserError(f"The reward model in {folder} is of an earlier version of the studio. Train a new one.")
        head = cls(state["asked"].shape[1], *state["turned"].shape[:2])
        head.load_state_dict(state)
        return head.requires_grad_(False).to(device)
