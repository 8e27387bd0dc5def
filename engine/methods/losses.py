"""Losses and estimators as pure functions of tensors.

`mask` is bool and True on tokens that count; no function lets a masked-out cell into its result.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# Nats that an answer pays for at most, in the mean of a batch, where it is no less probable than the reference's own
# answers are. Those of the built-in model have 0.12, on which the price was found.
HABIT = 0.5


def masked_mean(values: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
    """Mean of `values` where `mask`; 0 where the mask is empty.

    With `count`, their sum over that instead: a part's share in the mean of a whole that is taken in parts.
    """
    return torch.where(mask, values, 0.0).sum() / (mask.sum().clamp_min(1) if count is None else max(count, 1))


def masked_whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` shifted and scaled to mean 0 and variance 1 over the cells of `mask`; 0 elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def ranking_losses(scores: Tensor, ranks: Tensor, mask: Tensor, margin: float = 0.0) -> Tensor:
    """Bradley-Terry over all pairs of each ranking, a ranking as one batch element: [rankings].

    scores, ranks, mask: [rankings, K]; a lower rank is better, equal ranks are a tie. A pair's loss is
    -log sigmoid(s_better - s_worse); a tie is half a win each way. Pairs are averaged within a ranking, so that long
    rankings do not drown short ones (Ouyang et al. 2022, section 3.5, eq. 1). With `margin` m, a better score has to
    lead by m for each rank between the two (Touvron et al. 2023, Llama 2, eq. 2).
    """
    order = ranks.unsqueeze(1) - ranks.unsqueeze(2)  # [n, i, j] > 0 where i is better than j
    lead = scores.unsqueeze(2) - scores.unsqueeze(1) - margin * order
    upper = torch.ones(scores.shape[1], scores.shape[1], dtype=torch.bool, device=scores.device).triu(1)
    pairs = mask.unsqueeze(2) & mask.unsqueeze(1) & upper
    wins = 0.5 * (torch.sign(order) + 1)  # 1, 1/2 or 0
    loss = -(wins * logsigmoid(lead) + (1 - wins) * logsigmoid(-lead))
    return torch.where(pairs, loss, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def ordinal_losses(scores: Tensor, grades: Tensor, cuts: Tensor) -> Tensor:
    """Proportional odds: P(grade > k) = sigmoid(s - c_k) (McCullagh 1980, section 2.2): -log P(grade), [rows].

    scores: [rows]; grades: [rows], integers from 1 to len(cuts) + 1; cuts: ascending.
    """
    above = torch.where(grades > 1, scores - cuts[(grades - 2).clamp_min(0)], torch.inf)
    below = torch.where(grades <= len(cuts), scores - cuts[(grades - 1).clamp_max(len(cuts) - 1)], -torch.inf)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), without cancellation
    return -(logsigmoid(above) + logsigmoid(-below) + torch.log1p(-torch.exp(below - above)))


def ranking_accuracy(scores: Tensor, ranks: Tensor, mask: Tensor) -> tuple[int, int]:
    """(pairs ordered as the person did, pairs) over all untied pairs; shapes as in `ranking_loss`."""
    difference = scores.unsqueeze(2) - scores.unsqueeze(1)
    order = ranks.unsqueeze(1) - ranks.unsqueeze(2)
    pairs = mask.unsqueeze(2) & mask.unsqueeze(1) & (order > 0)
    return int((pairs & (difference > 0)).sum()), int(pairs.sum())


def kl_rewards(log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """-beta (log pi - log pi_ref) of every response token, [rows, time] (Ziegler et al. 2019, eq. 2)."""
    return torch.where(mask, -kl_coefficient * (log_probs - reference_log_probs), 0.0)


def improbable_rewards(
    log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, floor: float, penalty: float
) -> Tensor:
    """-penalty for each nat by which the reference finds a token less probable than `floor`, [rows, time].

    Whatever the reference would all but never say is nonsense more often than style, and a reward model trained on
    what the reference does say knows nothing of it. But of a long answer's tokens some are always improbable. So only
    the nats by which the policy finds a token more probable than the reference does, up to `floor`, count whole; the
    others as much as comes to HABIT an answer at most, or a policy would learn to be sure of itself and little else.
    """
    if not floor or not penalty:
        return torch.zeros_like(log_probs)
    below = torch.where(mask, math.log(floor) - reference_log_probs, 0.0).clamp_min(0)
    raised = torch.minimum(below, (log_probs - reference_log_probs).clamp_min(0))
    habit = below - raised
    share = HABIT / habit.sum(-1).mean().clamp_min(HABIT)
    return -penalty * (raised + share * habit)


def token_rewards(scores: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
    """`rewards` of the tokens [rows, time] with the answers' scores [rows] added on their last tokens."""
    last = mask.long().sum(-1, keepdim=True) - 1
    return rewards.scatter_add(-1, last, scores.unsqueeze(-1))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages, returns), each [rows, time].

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lambda A_{t+1}   (Schulman et al. 2016, eq. 16).
    Nothing follows a response's last token: its next value is 0.
    """
    advantages = torch.zeros_like(rewards)
    following_advantage = torch.zeros_like(rewards[:, 0])
    following_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantages[:, t] = torch.where(mask[:, t], delta + gamma * lam * following_advantage, 0.0)
        following_advantage = advantages[:, t]
        following_value = torch.where(mask[:, t], values[:, t], 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float, count: int | None = None
) -> Tensor:
    """PPO's clipped surrogate, to be minimised (Schulman et al. 2017, eq. 7). All tensors [rows, time]."""
    ratio = torch.exp(torch.where(mask, log_probs - old_log_probs, 0.0))
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(surrogate, mask, count)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float, count: int | None = None
) -> Tensor:
    """Half the squared error, values held within `clip` of the old ones (Ziegler et al. 2019, code)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, mask, count)


def reinforce_losses(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """The policy gradient of whole answers, [rows]: -min(rho A, clip(rho) A), rho = pi(y) / pi_old(y).

    log_probs, old_log_probs, mask: [rows, time]; advantages: [rows]. Where pi is pi_old its gradient is
    -A grad log pi(y) (Williams 1992, eq. 11); the clip lets a batch serve for more than one step.
    """
    ratio = torch.exp(torch.where(mask, log_probs - old_log_probs, 0.0).sum(-1))
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def baseline_advantages(rewards: Tensor, baseline: str) -> Tensor:
    """Rewards [prompts, answers to each] less a baseline that does not depend on the answer itself.

    "none"; "mean": of the batch; "leave-one-out": the mean of the prompt's other answers (Ahmadian et al. 2024,
    section 3.2); "group": the prompt's mean, over its standard deviation (Shao et al. 2024, GRPO, section 4.1.2).
    """
    if baseline == "none":
        return rewards
    if baseline == "mean":
        return rewards - rewards.mean()
    apart = rewards - rewards.mean(-1, keepdim=True)
    if baseline == "leave-one-out":
        return apart * rewards.shape[-1] / (rewards.shape[-1] - 1)
    return apart / (rewards.std(-1, keepdim=True) + 1e-4)


def kto_losses(
    log_ratios: Tensor, desirable: Tensor, kl: Tensor, beta: float, desirable_weight: float, undesirable_weight: float
) -> Tensor:
    """lambda (1 - sigmoid(+-beta (log(pi / pi_ref) - z))), + where desirable (Ethayarajh et al. 2024, eq. 7): [rows].

    log_ratios: [rows], of whole answers; desirable: bool [rows]; kl: z, a scalar no gradient goes through.
    """
    value = beta * (log_ratios - kl)
    gain = torch.where(desirable, torch.sigmoid(value), torch.sigmoid(-value))
    return torch.where(desirable, desirable_weight, undesirable_weight) * (1 - gain)


def expectile_losses(differences: Tensor, expectile: float) -> Tensor:
    """|tau - 1(u < 0)| u^2 of differences u = target - estimate (Kostrikov et al. 2021, IQL, eq. 5)."""
    return torch.where(differences < 0, 1 - expectile, expectile) * differences**2


def approximate_kl(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
    """Mean per-token KL(old || new), estimated as (r - 1) - log r (Schulman 2020, "k3")."""
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    return masked_mean(torch.expm1(log_ratio) - log_ratio, mask, count)


class AdaptiveKL:
    """The KL coefficient, steered so that KL(policy || reference) per response nears `target` nats.

    e = clip((KL - target) / target, -0.2, 0.2);  beta <- beta (1 + e / horizon * n)   (Ziegler et al. 2019, 2.2).
    """

    def __init__(self, coefficient: float, target: float, horizon: float):
        self.coefficient = coefficient
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, episodes: int) -> None:
        error = max(-0.2, min(0.2, (kl - self.target) / self.target))
        self.coefficient *= 1 + error * episodes / self.horizon
