"""Direct preference optimisation: the policy is its own reward model (Rafailov et al. 2023).

The implicit reward of an answer is beta (log pi(y) - log pi_ref(y)); its Bradley-Terry loss on a ranking is the same
as a reward model's, over all pairs, ties included (eq. 7 for one pair, appendix A.3 for rankings).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import UserError
from engine.feedback.examples import Ranking, Valued
from engine.methods import losses
from engine.methods.settings import DPOConfig
from engine.methods.sft import encode
from engine.models.roles import Roles
from engine.training.batches import pad_ranks, spread
from engine.training.context import Context, Silent
from engine.training.fit import Figures, Objective, fit
from engine.training.passes import Encoded, answer_log_probs, whole_log_probs


@dataclass(frozen=True)
class Preference:
    """A ranking in tokens, with what the reference thinks of its answers."""

    answers: list[Encoded]
    ranks: tuple[float, ...]
    reference: list[float]  # log pi_ref of each answer, nats


def prepare(roles: Roles, reference: str | None, rankings: Sequence[Ranking], limit: int) -> list[Preference]:
    encoded = [
        [
            encode(roles, Valued(r.prompt, text, 0.0, "ranking", done), limit)
            for text, done in zip(r.responses, r.finished, strict=True)
        ]
        for r in rankings
    ]
    log_probs = iter(whole_log_probs(roles, reference, [e for group in encoded for e in group]))
    return [
        Preference(group, r.ranks, [next(log_probs) for _ in group]) for group, r in zip(encoded, rankings, strict=True)
    ]


class DirectPreference(Objective[Preference]):
    """-log sigmoid(beta ((log pi/pi_ref)(better) - (log pi/pi_ref)(worse))), averaged over each ranking's pairs."""

    def __init__(self, roles: Roles, beta: float):
        self.roles, self.beta = roles, beta

    def loss(self, part: list[Preference]) -> tuple[Tensor, Figures]:
        log_probs, _ = answer_log_probs(self.roles, "policy", [e for p in part for e in p.answers], train=True)
        device = log_probs.device
        reference = torch.tensor([value for p in part for value in p.reference], device=device)
        implicit = self.beta * (log_probs.sum(-1) - reference)
        ranks, present = pad_ranks([p.ranks for p in part], device)
        scores = spread(implicit, present)
        each = losses.ranking_losses(scores, ranks, present)
        return each.sum(), {"accuracy": losses.ranking_accuracy(scores.detach(), ranks, present)}


def train_dpo(
    roles: Roles,
    rankings: Sequence[Ranking],
    config: DPOConfig,
    reference: str | None = None,
    context: Context | None = None,
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Train the role "policy" (which must exist) on `rankings`. Returns the last step's figures.

    Raises UserError where the rankings prefer nothing over anything.
    """
    if not any(len(set(r.ranks)) > 1 for r in rankings):
        raise UserError("The feedback says of no answer that it is better than another. Rank or edit some answers.")
    examples = prepare(roles, reference, rankings, config.max_length)
    groups = [{"params": roles.parameters("policy"), "lr": config.rate(roles.blocks)}]
    objective = DirectPreference(roles, config.beta)
    return fit("dpo", examples, objective, groups, config, context or Silent(), checkpoints, roles.base.half)
