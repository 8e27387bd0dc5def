"""The settings of each method, with their defaults. Needs no torch, so the page can show and check them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RewardConfig:
    epochs: int = 12
    batch_rankings: int = 8
    learning_rate: float = 5e-4
    head_learning_rate: float = 5e-3
    weight_decay: float = 0.01
    rank: int = 16
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    held_out: float = 0.15  # share of prompts kept for measuring
    max_length: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class PPOConfig:
    updates: int = 40
    episodes: int = 32  # answers per update
    epochs: int = 4
    minibatches: int = 2
    learning_rate: float = 1e-3
    value_learning_rate: float = 5e-3
    rank: int = 16
    clip: float = 0.2
    value_clip: float = 0.2
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    kl_coefficient: float = 0.1
    kl_target: float = 6.0  # nats per answer
    kl_horizon: float = 400.0  # episodes
    stop_kl: float = 0.1  # per token, within one update
    missing_eos_penalty: float = 1.0
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    max_new_tokens: int = 96
    seed: int = 0
