"""The settings of each method, with their defaults. Needs no torch, so the page can show and check them."""

from dataclasses import dataclass
from typing import Literal

from engine.training.settings import Count, FitConfig, Natural, NotNegative, Positive, Share


@dataclass(frozen=True)
class PretrainConfig:
    text: str = ""  # a text file, or a folder of them
    start: Literal["lora", "full", "new"] = "lora"  # an adapter on the base, all of its weights, or a new model
    width: Count = 256  # of a new model, as are the next two
    layers: Count = 4
    vocabulary: Count = 4096
    tokens: Count = 1_000_000  # how many to train on in all
    batch_tokens: Count = 4096  # per optimiser step, padding included
    learning_rate: NotNegative = 0.0  # 0: 1e-3 for an adapter, 3e-4 for all weights, 5e-3 for a new model
    final_learning_rate: NotNegative = 2e-5
    warmup: Share = 0.01  # share of training
    weight_decay: NotNegative = 0.05
    max_grad_norm: Positive = 1.0
    max_length: Count = 256  # tokens of a block
    held_out: Share = 0.05  # share of the text kept for measuring
    rank: Count = 16  # of an adapter
    seed: int = 0

    @property
    def peak(self) -> float:
        return self.learning_rate or {"lora": 1e-3, "full": 3e-4, "new": 5e-3}[self.start]


@dataclass(frozen=True)
class RewardConfig(FitConfig):
    epochs: Count = 12
    weight_decay: NotNegative = 0.01
    head_learning_rate: Positive = 5e-3
    heads: Count = 1  # an ensemble of heads on one adapter, each on the feedback weighted its own way
    adapters: Count = 1  # of the ensemble, trained one after another
    margin: NotNegative = 0.0  # by how much a better answer's score should lead, for each rank between them
    rating_weight: NotNegative = 1.0  # of a rating against the scale, where a ranking weighs 1
    held_out: Share = 0.15  # share of prompts kept for measuring


@dataclass(frozen=True)
class SFTConfig(FitConfig):
    min_rating: float = 4.0  # answers rated this high are examples too


@dataclass(frozen=True)
class DPOConfig(FitConfig):
    epochs: Count = 6
    beta: Positive = 0.1


@dataclass(frozen=True)
class KTOConfig(FitConfig):
    epochs: Count = 6
    batch: Count = 16
    beta: Positive = 0.1
    desirable_weight: NotNegative = 1.0
    undesirable_weight: NotNegative = 1.0


@dataclass(frozen=True)
class ILQLConfig(FitConfig):
    epochs: Count = 12
    batch: Count = 16  # answers
    head_learning_rate: Positive = 3e-3
    bottleneck: Count = 64  # width of the Q heads' hidden layer
    gamma: Share = 0.99
    expectile: Share = 0.7
    conservative: NotNegative = 0.1  # weight of the conservative term
    imitation: NotNegative = 1.0  # weight of the language-model loss on the stored answers
    target_rate: Share = 0.05  # share of the way the slow targets go at every step
    beta: NotNegative = 4.0  # how far Q - V shifts sampling


@dataclass(frozen=True)
class OnlineConfig:
    """What every method has that learns from answers as it gives them."""

    updates: Count = 70
    episodes: Count = 64  # answers per update
    samples: Count = 1  # answers to the same prompt among them
    learning_rate: Positive = 4e-4
    final_rate: Share = 0.1  # share of the learning rates that is left at the end, after a linear decay
    rank: Count = 16
    kl_coefficient: NotNegative = 0.1
    kl_target: Positive = 4.0  # nats per answer
    kl_horizon: Positive = 1000.0  # episodes; much shorter, and the KL swings about its target
    kl_budget: NotNegative = 0.0  # nats per answer at which training ends; 0 for no end
    pessimism: NotNegative = 0.0  # standard deviations of the reward model's ensemble taken off its score
    length_target: Natural = 0  # tokens above which an answer pays for its length; 0 for never
    length_penalty: NotNegative = 0.02  # for each token above the target
    improbable_floor: Share = 0.005  # tokens that the reference finds less probable than this ...
    improbable_penalty: NotNegative = 0.5  # ... cost this for each nat below; 0 for nothing
    missing_eos_penalty: NotNegative = 1.0  # for answers without an end or without words; 0 for none
    select_every: Natural = 0  # updates between looks at held-out prompts, the best of which is kept; 0 for the last
    max_grad_norm: Positive = 1.0
    temperature: Positive = 1.0
    max_new_tokens: Count = 96
    micro_batch: Natural = 0  # answers of a step at a time, to save memory; 0 for all at once
    seed: int = 0


@dataclass(frozen=True)
class PPOConfig(OnlineConfig):
    epochs: Count = 4
    minibatches: Count = 2
    value_learning_rate: Positive = 5e-3
    value_adapter: bool = False  # a LoRA adapter of its own for the values
    clip: Positive = 0.2
    value_clip: Positive = 0.2
    value_weight: NotNegative = 0.1
    gamma: Share = 1.0
    lam: Share = 0.95
    stop_kl: Positive = 0.1  # per token, within one update
    pretraining_weight: NotNegative = 0.0  # of a language-model loss on good answers beside PPO's ("PPO-ptx")


@dataclass(frozen=True)
class ReinforceConfig(OnlineConfig):
    samples: Count = 4
    baseline: Literal["none", "mean", "leave-one-out", "group"] = "leave-one-out"
    epochs: Count = 2
    minibatches: Count = 2
    clip: Positive = 0.2
