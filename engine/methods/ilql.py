"""Q-learning for language, offline on stored answers and how good they were (Snell et al. 2022, ILQL).

A state is a prompt with the answer so far, an action the next token, the reward an answer's value at its last token.
Two Q heads and a V head read the hidden state that predicts the token (section 4.2):

  L_Q  = (G - Q_i(s, a))^2, both heads, G = r + gamma ((1 - lambda) V(s') + lambda G')
  L_V  = expectile_tau(min Q_target(s, a) - V(s)), so V is near the best action's value that the data has
  L_CQ = logsumexp Q_i(s, .) - Q_i(s, a), which keeps Q low for what the data never tried
  L_LM = -log pi_beta(a | s), the language model the shift is added to

G is Peng's lambda-return (Peng and Williams 1996): with lambda 0, as in the paper, what an answer is worth goes
one token back in an update, and the few updates that little feedback is worth never bring it to where an answer begins.

For tau -> 1, lambda 0 and no conservative term, V(s') is max_a' Q(s', a') and a gradient step on L_Q is the textbook
update Q(s, a) <- Q(s, a) + alpha [r + gamma max Q(s', a') - Q(s, a)] (Watkins 1989). The tuned model samples from
pi_beta(a | s) exp(beta (Q - V)) (`engine.models.shift`).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import UserError
from engine.feedback.examples import Valued
from engine.methods import losses
from engine.methods.settings import ILQLConfig
from engine.methods.sft import encode
from engine.models.roles import Roles
from engine.models.shift import AdvantageShift
from engine.models.token_log_probs import token_log_probs
from engine.training.batches import spread
from engine.training.context import Context, Silent
from engine.training.fit import Figures, Objective, fit
from engine.training.passes import Encoded, given, states_before


@dataclass(frozen=True)
class Trajectory:
    """An answer in tokens and its value, paid at its last token."""

    encoded: Encoded
    value: float


def q_losses(
    q: Sequence[Tensor], all_q: Sequence[Tensor], slow_q: Tensor, v: Tensor, rewards: Tensor, mask: Tensor,
    config: ILQLConfig,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(L_Q, L_V, L_CQ), each summed over the tokens of `mask`.

    Of each head q: Q_i(s, a), and all_q: logsumexp Q_i(s, .); slow_q: min Q_target(s, a). All are [rows, time], `mask`
    is bool. A row's last real token ends its episode: no value follows it.
    """
    _, target = losses.gae(rewards, v.detach(), mask, config.gamma, config.lam)  # its returns are G
    loss_q = (target - q[0]) ** 2 + (target - q[1]) ** 2
    loss_v = losses.expectile_losses(slow_q.detach() - v, config.expectile)
    loss_cq = all_q[0] - q[0] + all_q[1] - q[1]
    loss_q, loss_v, loss_cq = (torch.where(mask, each, 0.0).sum() for each in (loss_q, loss_v, loss_cq))
    return loss_q, loss_v, loss_cq


class ImplicitQ(Objective[Trajectory]):
    def __init__(self, roles: Roles, config: ILQLConfig):
        self.roles, self.config = roles, config
        device, width = roles.base.device, roles.width
        vocabulary = roles.base.model.get_output_embeddings().weight.shape[0]
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.shift = AdvantageShift(width, config.bottleneck, vocabulary, config.beta, roles.head_scale).to(device)
        self.slow = copy.deepcopy(self.shift).requires_grad_(False)

    def weight(self, example: Trajectory) -> float:
        return len(example.encoded.answer)

    def loss(self, part: list[Trajectory]) -> tuple[Tensor, Figures]:
        device = self.roles.base.device
        drawn = given(self.roles, [t.encoded for t in part])
        mask = drawn.response_mask
        actions = drawn.response_ids[mask]
        with self.roles.acting("policy", train=True) as model:
            before = states_before(model, drawn, torch.arange(len(part), device=device))
            loss_lm = -token_log_probs(model, before, actions).sum()
        last = mask.sum(-1, keepdim=True) - 1
        values = torch.tensor([[t.value] for t in part], device=device)
        rewards = torch.zeros(mask.shape, device=device).scatter(1, last, values)
        heads = (self.shift.q1, self.shift.q2)
        q = [spread(head.of(before, actions), mask) for head in heads]
        all_q = q  # over the whole vocabulary it is half of the work, and for nothing where L_CQ does not count
        if self.config.conservative:
            all_q = [spread(head.log_sum_exp(before), mask) for head in heads]
        slow_q = spread(torch.minimum(self.slow.q1.of(before, actions), self.slow.q2.of(before, actions)), mask)
        v = spread(self.shift.v(before).squeeze(-1), mask)
        loss_q, loss_v, loss_cq = q_losses(q, all_q, slow_q, v, rewards, mask, self.config)
        tokens = float(mask.sum())
        total = loss_q + loss_v + self.config.conservative * loss_cq + self.config.imitation * loss_lm
        named = {"q_loss": loss_q, "v_loss": loss_v, "lm_loss": loss_lm}
        return total, {name: (float(value.detach()), tokens) for name, value in named.items()}

    @torch.no_grad()
    def stepped(self) -> None:
        for slow, fast in zip(self.slow.parameters(), self.shift.parameters(), strict=True):
            slow.lerp_(fast, self.config.target_rate)

    def state(self) -> list[Tensor]:
        return list(self.slow.parameters())


def train_ilql(
    roles: Roles,
    valued: Sequence[Valued],
    config: ILQLConfig,
    context: Context | None = None,
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Train the role "policy" (which must exist) and its shift on judged answers. Returns the last step's figures.

    Raises UserError where all are worth the same.
    """
    if len({v.value for v in valued}) < 2:
        raise UserError("Q-learning needs answers of different worth. Rank some, or rate some up and some down.")
    examples = [Trajectory(encode(roles, v, config.max_length), v.value) for v in valued]
    roles.shifts.pop("policy", None)
    objective = ImplicitQ(roles, config)
    groups = [
        {"params": roles.parameters("policy"), "lr": config.rate(roles.blocks)},
        {"params": list(objective.shift.parameters()), "lr": config.head_learning_rate},
    ]
    try:
        return fit("ilql", examples, objective, groups, config, context or Silent(), checkpoints, roles.base.half)
    finally:  # stopped early, what was learned counts all the same
        roles.shifts["policy"] = objective.shift.requires_grad_(False)
