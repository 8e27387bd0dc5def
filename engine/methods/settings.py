"""The settings of each method, with their defaults. Needs no torch, so the page can show and check them."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class RewardConfig:
    epochs: Count = 12
    batch_rankings: Count = 8
    learning_rate: Positive = 5e-4
    head_learning_rate: Positive = 5e-3
    weight_decay: NotNegative = 0.01
    rank: Count = 16
    warmup: Share = 0.1
    max_grad_norm: Positive = 1.0
    held_out: Share = 0.15  # share of prompts kept for measuring
    max_length: Count = 1024
    seed: int = 0


@dataclass(frozen=True)
class PPOConfig:
    updates: Count = 70
    episodes: Count = 64  # answers per update
    epochs: Count = 4
    minibatches: Count = 2
    learning_rate: Positive = 4e-4
    value_learning_rate: Positive = 5e-3
    rank: Count = 16
    clip: Positive = 0.2
    value_clip: Positive = 0.2
    value_weight: NotNegative = 0.1
    gamma: Share = 1.0
    lam: Share = 0.95
    kl_coefficient: NotNegative = 0.1
    kl_target: Positive = 3.0  # nats per answer
    kl_horizon: Positive = 100.0  # episodes
    stop_kl: Positive = 0.1  # per token, within one update
    missing_eos_penalty: NotNegative = 1.0  # for answers without an end or without words; 0 for none
    max_grad_norm: Positive = 1.0
    temperature: Positive = 1.0
    max_new_tokens: Count = 96
    seed: int = 0
