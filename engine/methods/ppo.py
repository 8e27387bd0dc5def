"""PPO on a learned reward, with a KL penalty against the reference (Schulman et al. 2017; Ziegler et al. 2019).

Each update (`online.train_online`) answers a batch of prompts and scores the answers. Here the score and the
per-token KL penalty are spread over the tokens, advantages estimated, and a few epochs of clipped steps taken.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.methods import losses
from engine.methods.online import Experience, minibatches, train_online
from engine.methods.settings import PPOConfig
from engine.models.chat import Message
from engine.models.heads import ScalarHead
from engine.models.roles import Roles
from engine.training.batches import spread
from engine.training.context import Context
from engine.training.optimizers import Steps, adamw
from engine.training.parts import Parts
from engine.training.passes import Scorer, response_pass, states_before

# A loss on other data beside PPO's, for a step of that (seed): see `sft.demonstration_loss`.
ExtraLoss = Callable[[int], Tensor]


class PPO:
    """Learns from one update's answers. The value head reads the policy's hidden state, or its own adapter's."""

    def __init__(self, roles: Roles, config: PPOConfig, extra_loss: ExtraLoss | None = None):
        self.roles, self.config, self.extra_loss = roles, config, extra_loss
        self.head = ScalarHead(roles.width, scale=roles.head_scale).to(roles.base.device)
        groups = [
            {"params": roles.parameters("policy"), "lr": config.rate(roles.blocks)},
            {"params": list(self.head.parameters()), "lr": config.value_learning_rate},
        ]
        if config.value_adapter:
            roles.add("value", rank=config.rank, seed=config.seed + 1)
            groups.append({"params": roles.parameters("value"), "lr": config.rate(roles.blocks)})
        self.steps = Steps(adamw(groups, config.optimizer), config.max_grad_norm, roles.base.half)
        self.parts = Parts(config.micro_batch)
        self.reads_states = not config.value_adapter  # they are the policy's

    def values(self, experience: Experience, rows: Tensor, train: bool = False) -> Tensor:
        """The value of each state before a response token of `rows`, [rows, response time]."""
        with self.roles.acting("value" if self.config.value_adapter else "policy", train=train) as model:
            before = states_before(model, experience.rollout, rows)
            return spread(self.head(before).squeeze(-1), experience.rollout.response_mask[rows])

    def passes(self, experience: Experience, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probs, values) of `rows`, each [rows, response time], with gradients."""
        own = self.config.value_adapter
        with self.roles.acting("policy", train=True) as model:
            log_probs, values = response_pass(
                model, None if own else self.head, experience.rollout, rows, self.config.sampling.temperature
            )
        return log_probs, self.values(experience, rows, train=True) if values is None else values

    @torch.no_grad()
    def estimate(self, experience: Experience) -> tuple[Tensor, Tensor, Tensor]:
        """(values, whitened advantages, returns), each [rows, response time], of the policy that answered."""
        mask = experience.rollout.response_mask
        if experience.rollout.states is not None and self.reads_states:  # no pass is needed
            values = torch.where(mask, self.head(experience.rollout.states).squeeze(-1), 0.0)
        else:
            values = self.values(experience, torch.arange(len(mask), device=mask.device))
        rewards = losses.token_rewards(experience.scores, experience.token_rewards, mask)
        advantages, returns = losses.gae(rewards, values, mask, self.config.gamma, self.config.lam)
        return values, losses.masked_whiten(advantages, mask), returns

    def learn(self, experience: Experience, seed: int) -> dict[str, float]:
        """Clipped steps on one batch. Stops early where the policy has moved further than `stop_kl`."""
        config, drawn, mask = self.config, experience.rollout, experience.rollout.response_mask
        old_values, advantages, returns = self.estimate(experience)
        totals: dict[str, list[float]] = {}
        steps = minibatches(len(mask), config.epochs, config.minibatches, seed, mask.device)
        for step, whole in enumerate(steps):
            tokens = int(mask[whole].sum())

            def part(start: int, end: int, whole: Tensor = whole, tokens: int = tokens) -> Tensor:
                """Leaves the gradient of a part's share in the minibatch's loss; its shares in the figures."""
                rows = whole[start:end]
                log_probs, values = self.passes(experience, rows)
                now, old = mask[rows], drawn.log_probs[rows]
                loss_policy = losses.policy_loss(log_probs, old, advantages[rows], now, config.clip, tokens)
                loss_value = losses.value_loss(values, old_values[rows], returns[rows], now, config.value_clip, tokens)
                self.steps.back(loss_policy + config.value_weight * loss_value)
                moved = losses.approximate_kl(log_probs.detach(), old, now, tokens)
                return torch.stack([loss_policy.detach(), loss_value.detach(), moved])

            shares = self.parts.each(len(whole), part, self.steps.forget)
            figures = torch.stack(shares).sum(0).tolist()
            sums = dict(zip(("policy_loss", "value_loss", "approximate_kl"), figures, strict=True))
            if sums["approximate_kl"] > config.stop_kl:
                self.steps.forget()
                return {k: sum(v) / len(v) for k, v in totals.items()} | {"approximate_kl": sums["approximate_kl"]}
            if self.extra_loss is not None and config.pretraining_weight:
                extra = self.extra_loss(seed + step)
                self.steps.back(config.pretraining_weight * extra)
                sums["pretraining_loss"] = float(extra.detach())
            sums["grad_norm"] = self.steps.step()
            for key, number in sums.items():
                totals.setdefault(key, []).append(number)
        return {k: sum(v) / len(v) for k, v in totals.items()}


def train_ppo(
    roles: Roles,
    scorer: Scorer,
    conversations: list[list[Message]],
    config: PPOConfig,
    reference: str | None = None,
    context: Context | None = None,
    checkpoints: Path | None = None,
    held_out: Sequence[list[Message]] = (),
    extra_loss: ExtraLoss | None = None,
) -> dict[str, float]:
    """Train the role "policy" (which must exist) on `conversations`. Returns the last update's figures."""
    learner = PPO(roles, config, extra_loss)
    return train_online(
        "ppo", roles, learner, scorer, conversations, config, reference, context, checkpoints, list(held_out)
    )
