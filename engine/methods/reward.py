"""Reward model: the base with its own adapter and a scalar head on the last token, trained on rankings.

The last token is the one that opens the person's next turn: there a language model has to have made up its mind how
the answer will be taken, which is just what the head is to learn.

Loss: Bradley-Terry over all pairs of each ranking (`losses.ranking_loss`). Afterwards scores are shifted and
scaled to mean 0 and variance 1 on answers of the starting policy (Ziegler et al. 2019, section 2.2).
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UserError
from engine.feedback.examples import Ranking
from engine.methods import losses
from engine.methods.settings import RewardConfig
from engine.models.chat import Message, encode_prompt, encode_response, next_turn
from engine.models.roles import Roles, ScalarHead, hidden_states
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from engine.training.batches import pad_right
from engine.training.context import Context, Silent, clip_and_step


@dataclass
class RewardModel:
    """Scores answers: (head(last hidden state) - mean) / std."""

    roles: Roles
    head: ScalarHead
    role: str = "reward"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        self.opener = next_turn(self.roles.tokenizer)

    def pad(self, rows: list[list[int]], limit: int | None = None) -> tuple[Tensor, Tensor]:
        """(ids, mask) [rows, time] of prompt-and-answer rows, the next turn's opening behind each.

        Of a row that is longer than `limit` tokens, or than the model reads, the start is left out.
        """
        limit = min(limit or 1 << 30, self.roles.tokenizer.model_max_length)
        full = [[*row, *self.opener][-limit:] for row in rows]
        ids, mask = pad_right(full, self.roles.tokenizer.pad_token_id)
        return ids.to(self.roles.base.device), mask.to(self.roles.base.device)

    def raw(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores [rows] before normalisation of whole sequences [rows, time], padded on either side."""
        with self.roles.acting(self.role) as model:
            return self._head_on_last(model, ids, mask)

    def _head_on_last(self, model, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = hidden_states(model, ids, mask)
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, positions, -1).max(-1).values
        return self.head(hidden[torch.arange(len(last), device=last.device), last])

    @torch.no_grad()
    def scores(self, sequences: list[list[int]], batch: int = 64) -> Tensor:
        """Normalised scores [rows] of whole token sequences (prompt and answer), on the CPU."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        out = torch.zeros(len(sequences))
        for start in range(0, len(order), batch):
            index = order[start : start + batch]
            out[index] = self.raw(*self.pad([sequences[i] for i in index])).float().cpu()
        return (out - self.mean) / self.std

    def score_texts(self, items: list[tuple[list[Message], str, bool]]) -> Tensor:
        """Normalised scores [rows] of (conversation, answer, whether it ended by itself)."""
        return self.scores([sequence(self.roles.tokenizer, *item) for item in items])


def sequence(tokenizer, messages: list[Message], response: str, finished: bool = True) -> list[int]:
    """Token ids of a conversation and the answer to it."""
    return encode_prompt(tokenizer, messages) + encode_response(tokenizer, response, finished)


def _batch(reward: RewardModel, rankings: list[Ranking], limit: int) -> tuple[Tensor, ...]:
    """(ids, mask) of all responses, and (slot, ranks, present) that put their scores into [rankings, K]."""
    tokenizer = reward.roles.tokenizer
    rows = [
        sequence(tokenizer, r.messages, text, done)
        for r in rankings
        for text, done in zip(r.responses, r.finished, strict=True)
    ]
    ids, mask = reward.pad(rows, limit)
    width = max(len(r.responses) for r in rankings)
    present = torch.zeros(len(rankings), width, dtype=torch.bool)
    ranks = torch.zeros(len(rankings), width)
    for i, r in enumerate(rankings):
        present[i, : len(r.responses)] = True
        ranks[i, : len(r.responses)] = torch.tensor(r.ranks)
    return ids, mask, ranks.to(ids.device), present.to(ids.device)


def _scores(reward: RewardModel, model, ids: Tensor, mask: Tensor, present: Tensor) -> Tensor:
    flat = reward._head_on_last(model, ids, mask)
    # [rankings, K], zeros where a ranking is shorter; masked_scatter keeps the gradient.
    return torch.zeros(present.shape, device=flat.device).masked_scatter(present, flat)


@torch.no_grad()
def accuracy(reward: RewardModel, rankings: list[Ranking], config: RewardConfig) -> tuple[int, int]:
    """(pairs ordered right, untied pairs) over `rankings`."""
    right = pairs = 0
    for start in range(0, len(rankings), config.batch_rankings):
        ids, mask, ranks, present = _batch(reward, rankings[start : start + config.batch_rankings], config.max_length)
        with reward.roles.acting(reward.role) as model:
            scores = _scores(reward, model, ids, mask, present)
        hit, count = losses.ranking_accuracy(scores, ranks, present)
        right, pairs = right + hit, pairs + count
    return right, pairs


def train_reward(
    roles: Roles,
    train: list[Ranking],
    test: list[Ranking],
    config: RewardConfig,
    context: Context | None = None,
) -> tuple[RewardModel, dict[str, float]]:
    """Train a reward model as the role "reward". Returns it, not yet normalised, and its held-out figures.

    Raises UserError where the rankings prefer nothing over anything.
    """
    context = context or Silent()
    if not any(len(set(r.ranks)) > 1 for r in train):
        raise UserError("The feedback says of no answer that it is better than another. Rank or edit some answers.")
    roles.add("reward", rank=config.rank, seed=config.seed)
    reward = RewardModel(roles, ScalarHead(roles.width).to(roles.base.device))
    adapter, head = roles.parameters("reward"), list(reward.head.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": adapter, "lr": config.learning_rate}, {"params": head, "lr": config.head_learning_rate}],
        weight_decay=config.weight_decay,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    rng = random.Random(config.seed)
    steps_per_epoch = -(-len(train) // config.batch_rankings)
    total, step = steps_per_epoch * config.epochs, 0
    for _ in range(config.epochs):
        order = rng.sample(train, len(train))
        for start in range(0, len(order), config.batch_rankings):
            context.stage("reward", step, total)
            progress = step / total
            scale = min(1.0, (progress + 1 / total) / config.warmup) * max(1 - progress, 0.02)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
            ids, mask, ranks, present = _batch(reward, order[start : start + config.batch_rankings], config.max_length)
            with roles.acting("reward", train=True) as model:
                scores = _scores(reward, model, ids, mask, present)
                loss = losses.ranking_loss(scores, ranks, present)
                loss.backward()
            norm = clip_and_step(optimizer, adapter + head, config.max_grad_norm)
            hit, count = losses.ranking_accuracy(scores.detach(), ranks, present)
            step += 1
            values = {"loss": float(loss.detach()), "accuracy": hit / max(count, 1), "grad_norm": norm}
            context.metrics("reward", step, values)
    context.stage("reward", total, total)
    reward.head.requires_grad_(False)
    right, pairs = accuracy(reward, test, config) if test else (0, 0)
    figures: dict[str, float] = {"held_out_pairs": pairs, "train_rankings": len(train), "test_rankings": len(test)}
    if pairs:
        figures["held_out_accuracy"] = right / pairs
        context.metrics("reward", step, {"held_out_accuracy": right / pairs})
    return reward, figures


def normalise(
    reward: RewardModel, policy_role: str | None, prompts: list[list[Message]], sampling: Sampling, seed: int
) -> None:
    """Set the reward's mean and std so that answers of `policy_role` to `prompts` score mean 0, variance 1."""
    drawn = answer(reward.roles, policy_role, prompts, sampling, [seed + i for i in range(len(prompts))])
    raw = reward.scores([a.prompt_ids + a.ids for a in drawn]) * reward.std + reward.mean
    reward.mean = float(raw.mean())
    reward.std = max(float(raw.std()), 1e-3)
