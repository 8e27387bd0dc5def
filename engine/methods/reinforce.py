"""The policy gradient, theta <- theta + alpha grad J, on whole answers (Williams 1992; Ahmadian et al. 2024).

grad J = E[(R(y) - b) grad log pi(y)] with R(y) = s(y) - beta (log pi(y) - log pi_ref(y)). The loop is PPO's
(`online.train_online`); only the advantage differs, `losses.baseline_advantages`: no baseline, the batch's mean,
leave-one-out (RLOO) or the group's mean and deviation (GRPO).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import UserError
from engine.methods import losses
from engine.methods.online import Experience, minibatches, train_online
from engine.methods.settings import ReinforceConfig
from engine.models.chat import Message
from engine.models.roles import Roles
from engine.training.context import Context
from engine.training.optimizers import Steps, adamw
from engine.training.parts import Parts
from engine.training.passes import Scorer, response_pass


class Reinforce:
    """Learns from one update's answers, `samples` of each prompt side by side."""

    reads_states = False

    def __init__(self, roles: Roles, config: ReinforceConfig):
        if config.baseline in ("leave-one-out", "group") and config.samples < 2:
            raise UserError(
                f"The baseline {config.baseline} compares answers to one prompt: set reinforce.samples to 2 or more."
            )
        self.roles, self.config = roles, config
        optimizer = adamw(roles.parameters("policy"), config.optimizer, config.rate(roles.blocks))
        self.steps = Steps(optimizer, config.max_grad_norm, roles.base.half)
        self.parts = Parts(config.micro_batch)

    def advantages(self, experience: Experience) -> Tensor:
        """[rows]: of each answer's score with what its tokens earn and pay, the KL penalty above all."""
        rewards = experience.scores + experience.token_rewards.sum(-1)
        grouped = rewards.reshape(-1, self.config.samples)
        return losses.baseline_advantages(grouped, self.config.baseline).reshape(-1)

    def learn(self, experience: Experience, seed: int) -> dict[str, float]:
        config, drawn, mask = self.config, experience.rollout, experience.rollout.response_mask
        advantages = self.advantages(experience)
        totals: dict[str, list[float]] = {}
        for whole in minibatches(len(mask), config.epochs, config.minibatches, seed, mask.device):
            tokens = int(mask[whole].sum())

            def part(start: int, end: int, whole: Tensor = whole, tokens: int = tokens) -> Tensor:
                """Leaves the gradient of a part's share in the minibatch's loss; its shares in the figures."""
                rows = whole[start:end]
                now, old = mask[rows], drawn.log_probs[rows]
                with self.roles.acting("policy", train=True) as model:
                    log_probs, _ = response_pass(model, None, drawn, rows, config.sampling.temperature)
                loss = losses.reinforce_losses(log_probs, old, advantages[rows], now, config.clip).sum() / len(whole)
                self.steps.back(loss)
                moved = losses.approximate_kl(log_probs.detach(), old, now, tokens)
                return torch.stack([loss.detach(), moved])

            shares = self.parts.each(len(whole), part, self.steps.forget)
            figures = torch.stack(shares).sum(0).tolist()
            sums = dict(zip(("policy_loss", "approximate_kl"), figures, strict=True))
            sums["grad_norm"] = self.steps.step()
            for key, number in sums.items():
                totals.setdefault(key, []).append(number)
        return {k: sum(v) / len(v) for k, v in totals.items()}


def train_reinforce(
    roles: Roles,
    scorer: Scorer,
    conversations: list[list[Message]],
    config: ReinforceConfig,
    reference: str | None = None,
    context: Context | None = None,
    checkpoints: Path | None = None,
    held_out: Sequence[list[Message]] = (),
) -> dict[str, float]:
    """Train the role "policy" (which must exist) on `conversations`. Returns the last update's figures."""
    learner = Reinforce(roles, config)
    return train_online(
        "reinforce", roles, learner, scorer, conversations, config, reference, context, checkpoints, list(held_out)
    )
