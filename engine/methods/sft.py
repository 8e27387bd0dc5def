"""Supervised tuning: answers worth copying, the loss on the answer only.

L = -mean over answer tokens of log pi(y_t | x, y_<t)   (Ouyang et al. 2022, section 3.1). A conversation of several
turns is context; its last answer is what is learned.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import UserError
from engine.feedback.examples import Valued, messages_of
from engine.methods.settings import SFTConfig
from engine.models.chat import encode_answered
from engine.models.roles import Roles
from engine.training.context import Context, Silent
from engine.training.fit import Figures, Objective, batches_of, fit
from engine.training.passes import Encoded, answer_log_probs


def encode(roles: Roles, example: Valued, limit: int) -> Encoded:
    limit = min(limit, roles.tokenizer.model_max_length)
    messages = messages_of(example.prompt)
    return Encoded(*encode_answered(roles.tokenizer, messages, example.response, example.finished, limit))


class Imitation(Objective[Encoded]):
    """Cross-entropy of the answers' tokens under the role "policy"; a token weighs 1."""

    def __init__(self, roles: Roles):
        self.roles = roles

    def weight(self, example: Encoded) -> float:
        return len(example.answer)

    def loss(self, part: list[Encoded]) -> tuple[Tensor, Figures]:
        log_probs, mask = answer_log_probs(self.roles, "policy", part, train=True)
        return -torch.where(mask, log_probs, 0.0).sum(), {}


def worth_copying(valued: Sequence[Valued], config: SFTConfig) -> list[Valued]:
    """Edits, answers rated `min_rating` or higher, and the best of each ranking, without repeats."""
    found: dict[tuple, Valued] = {}
    for v in valued:
        high = v.value >= (config.min_rating - 3) / 2 if v.source == "rating" else v.value == 1.0
        if high:
            found.setdefault((v.prompt, v.response), v)
    return list(found.values())


def train_sft(
    roles: Roles,
    examples: Sequence[Valued],
    config: SFTConfig,
    context: Context | None = None,
    checkpoints: Path | None = None,
) -> dict[str, float]:
    """Train the role "policy" (which must exist) to answer as in `examples`. Returns the last step's figures.

    Raises UserError where there are none.
    """
    if not examples:
        raise UserError("There is no answer to copy yet. Edit an answer, rate one 4 or higher, or import some.")
    encoded = [encode(roles, e, config.max_length) for e in examples]
    groups = [{"params": roles.parameters("policy"), "lr": config.rate(roles.blocks)}]
    return fit("sft", encoded, Imitation(roles), groups, config, context or Silent(), checkpoints, roles.base.half)


def demonstration_loss(roles: Roles, examples: Sequence[Valued], config: SFTConfig) -> Callable[[int], Tensor]:
    """Mean cross-entropy of a batch of `examples` drawn by seed, for a mix beside PPO (InstructGPT's "PPO-ptx")."""
    if not examples:
        raise UserError("ppo.pretraining_weight needs answers to copy: edit, rate or import some, or set it to 0.")
    encoded = [encode(roles, e, config.max_length) for e in examples]
    objective = Imitation(roles)

    def loss(seed: int) -> Tensor:
        batch = batches_of(encoded, config, seed)
        return objective.loss(batch)[0] / sum(map(objective.weight, batch))

    return loss
