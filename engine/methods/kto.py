"""KTO: answers that are good or bad by themselves, no pairs needed (Ethayarajh et al. 2024).

lambda (1 - sigmoid(+-beta (log(pi/pi_ref)(y) - z))), + for a good answer (eq. 7). z is the policy's KL to the
reference, estimated in each batch from answers paired with prompts they do not belong to (section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import UserError
from engine.feedback.examples import Valued
from engine.methods import losses
from engine.methods.settings import KTOConfig
from engine.methods.sft import encode
from engine.models.roles import Roles
from engine.training.context import Context, Silent
from engine.training.fit import Figures, Objective, fit
from engine.training.passes import Encoded, answer_log_probs, whole_log_probs


@dataclass(frozen=True)
class Judged:
    """One answer in tokens, whether it is good, and the same prompt with another prompt's answer."""

    own: Encoded
    good: bool
    reference: float  # log pi_ref of the answer, nats
    stray: Encoded
    stray_reference: float


class KahnemanTversky(Objective[Judged]):
    def __init__(self, roles: Roles, config: KTOConfig):
        self.roles, self.config = roles, config
        self.kl = torch.zeros(())

    @torch.no_grad()
    def begin(self, batch: list[Judged]) -> None:
        log_probs, _ = answer_log_probs(self.roles, "policy", [j.stray for j in batch])
        reference = torch.tensor([j.stray_reference for j in batch], device=log_probs.device)
        self.kl = (log_probs.sum(-1) - reference).mean().clamp_min(0)

    def loss(self, part: list[Judged]) -> tuple[Tensor, Figures]:
        log_probs, _ = answer_log_probs(self.roles, "policy", [j.own for j in part], train=True)
        reference = torch.tensor([j.reference for j in part], device=log_probs.device)
        good = torch.tensor([j.good for j in part], device=log_probs.device)
        ratios = log_probs.sum(-1) - reference
        each = losses.kto_losses(
            ratios, good, self.kl, self.config.beta, self.config.desirable_weight, self.config.undesirable_weight
        )
        above = (ratios.detach() > self.kl) == good
        return each.sum(), {"accuracy": (float(above.sum()), len(part)), "kl": (float(self.kl) * len(part), len(part))}


def prepare(roles: Roles, reference: str | None, valued: Sequence[Valued], limit: int) -> list[Judged]:
    """Good where the value is above 0, bad where it is below; what is neither says nothing here."""
    taken = [v for v in valued if v.value]
    own = [encode(roles, v, limit) for v in taken]
    # The answer of the next example that has another prompt, so that z is about answers in general.
    stray = []
    for i, v in enumerate(taken):
        others = (taken[(i + step) % len(taken)] for step in range(1, len(taken)))
        other = next((o for o in others if o.prompt != v.prompt), v)
        stray.append(encode(roles, replace(v, response=other.response, finished=other.finished), limit))
    known = whole_log_probs(roles, reference, own), whole_log_probs(roles, reference, stray)
    return [Judged(o, v.value > 0, r, s, q) for v, o, s, r, q in zip(taken, own, stray, *known, strict=True)]


def train_kto(
    roles: Roles,
    valued: Sequence[Valued],
    config: KTOConfig,
    reference: str | None = None,
    context: Context | None = None,
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Train the role "policy" (which must exist) on judged answers. Returns the last step's figures.

    Raises UserError where none is good or none is bad.
    """
    examples = prepare(roles, reference, valued, config.max_length)
    if len({e.good for e in examples}) < 2:
        raise UserError("KTO learns from good and from bad answers. Give some a thumb up and some a thumb down.")
    groups = [{"params": roles.parameters("policy"), "lr": config.rate(roles.blocks)}]
    objective = KahnemanTversky(roles, config)
    return fit("kto", examples, objective, groups, config, context or Silent(), checkpoints, roles.base.half)
