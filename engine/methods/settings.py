"""The settings of each method: default, range and meaning. Needs no torch, so the page can show and check them."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from engine.sampling.settings import BUILT_IN, Sampling
from engine.training.settings import (
    MIN_STEPS,
    OPTIMIZER,
    Count,
    FitConfig,
    Natural,
    NotNegative,
    Optimizer,
    Positive,
    Share,
    adapter_rate,
    setting,
)

RANKED = 4  # answers of a ranking, at most in Chat and as a rule elsewhere
CLOSE = "How closely the policy stays with the reference: higher is closer."


@dataclass(frozen=True)
class PretrainConfig:
    text: str = setting("", "A text file, or a folder of them.")
    start: Literal["lora", "full", "new"] = setting(
        "lora", "What is trained: an adapter on the base, all of its weights, or a new model."
    )
    width: Count = setting(256, "Width of a new model.")
    layers: Count = setting(4, "Layers of a new model.")
    vocabulary: Count = setting(4096, "Tokens that a new model's tokenizer knows.")
    tokens: Count = setting(1_000_000, "How many tokens to train on in all.")
    batch_tokens: Count = setting(4096, "Tokens per optimiser step, padding included.")
    learning_rate: NotNegative = setting(
        0.0,
        "0 chooses: 1e-3 for an adapter, less in a model of more than four blocks; 3e-4 for all weights, 5e-3 for a "
        "new model.",
    )
    final_learning_rate: NotNegative = setting(2e-5, "The learning rate at the end.")
    warmup: Share = setting(0.01, "Share of training in which the rate rises.")
    weight_decay: NotNegative = setting(0.05, "AdamW's weight decay.")
    max_grad_norm: Positive = setting(1.0, "Gradients longer than this are shortened to it.")
    mixed: Literal["auto", "always", "never"] = setting(
        "auto",
        "Weights that are trained stay in float32, matrix products are of numbers rounded to bf16; "
        "auto where this machine is faster so.",
    )
    max_length: Count = setting(256, "Tokens of a block.")
    held_out: Share = setting(0.05, "Share of the text kept for measuring.")
    rank: Count = setting(16, "Rank of an adapter.")
    seed: int = setting(0, "Seed of everything that is drawn.")

    def rate(self, blocks: int) -> float:
        """The learning rate at its peak, of a model of so many blocks."""
        return self.learning_rate or {"lora": adapter_rate(1e-3, blocks), "full": 3e-4, "new": 5e-3}[self.start]


@dataclass(frozen=True)
class RewardConfig(FitConfig):
    ANSWERS: ClassVar[int] = RANKED
    NORMALISED: ClassVar[int] = 128  # prompts on whose answers its score is brought to mean 0 and variance 1
    epochs: Count = setting(10, "Times that all feedback is gone through.")
    batch: Count = setting(4, "Rankings a step.")
    min_steps: Natural = setting(120, MIN_STEPS)
    max_steps: Natural = setting(
        500, "Steps at most, but all feedback once: much of it is gone through less often; 0 for no limit."
    )
    weight_decay: NotNegative = setting(0.01, "AdamW's weight decay.")
    head_learning_rate: Positive = setting(5e-3, "Learning rate of the scalar head.")
    gates: Natural = setting(4, "Numbers by which what is liked may turn with what was asked; 0 for none.")
    told_length: bool = setting(True, "It is told how many tokens an answer has, and need not find that out.")
    heads: Count = setting(1, "Heads on one adapter, each on the feedback weighted its own way: an ensemble.")
    adapters: Count = setting(1, "Adapters of an ensemble, trained one after another.")
    margin: NotNegative = setting(0.0, "By how much a better answer's score should lead, for each rank between them.")
    rating_weight: NotNegative = setting(1.0, "Weight of a rating against the scale, where a ranking weighs 1.")
    held_out: Share = setting(0.15, "Share of prompts kept for measuring.")


@dataclass(frozen=True)
class DirectConfig(FitConfig):
    """What every method has that tunes the policy on stored answers and no more.

    Steps are few and long: in many short ones it unlearns to speak before it has learned what is liked.
    """

    RATE: ClassVar[float] = 2e-3
    learning_rate: NotNegative = setting(
        0.0, "Learning rate of adapters at its peak; 0 for 2e-3, less in a model of more than four blocks."
    )


@dataclass(frozen=True)
class SFTConfig(DirectConfig):
    min_rating: float = setting(4.0, "Answers rated this high are copied too.")


@dataclass(frozen=True)
class DPOConfig(DirectConfig):
    ANSWERS: ClassVar[int] = RANKED
    epochs: Count = setting(6, "Times that all rankings are gone through.")
    batch: Count = setting(4, "Rankings a step.")
    min_steps: Natural = setting(60, MIN_STEPS)
    beta: Positive = setting(1.0, CLOSE)


@dataclass(frozen=True)
class KTOConfig(DirectConfig):
    BY_ANSWER: ClassVar[bool] = True
    epochs: Count = setting(6, "Times that all feedback is gone through.")
    batch: Count = setting(16, "Answers per optimiser step.")
    min_steps: Natural = setting(60, MIN_STEPS)
    beta: Positive = setting(1.0, CLOSE)
    desirable_weight: NotNegative = setting(1.0, "Weight of answers that were liked.")
    undesirable_weight: NotNegative = setting(1.0, "Weight of answers that were not.")


@dataclass(frozen=True)
class ILQLConfig(FitConfig):
    BY_ANSWER: ClassVar[bool] = True
    epochs: Count = setting(12, "Times that all judged answers are gone through.")
    batch: Count = setting(16, "Answers per optimiser step.")
    head_learning_rate: Positive = setting(5e-4, "Learning rate of the Q and V heads.")
    bottleneck: Count = setting(64, "Width of the Q heads' hidden layer.")
    gamma: Share = setting(0.99, "Discount for each token.")
    lam: Share = setting(
        0.99, "How much of an answer's worth reaches its earlier tokens at once; 0 is one-step Q-learning."
    )
    expectile: Share = setting(0.7, "Which expectile of Q the values aim at: nearer 1 is more hopeful.")
    conservative: NotNegative = setting(0.0, "Weight of the term that holds Q down where there is no data.")
    imitation: NotNegative = setting(1.0, "Weight of the language-model loss on the stored answers.")
    target_rate: Share = setting(0.05, "Share of the way the slow targets go at every step.")
    beta: NotNegative = setting(6.0, "How far Q - V shifts sampling.")


UPDATES, FEW, MANY = 60, 50, 100  # what few rankings are worth, up to so many; twice that from so many on


@dataclass(frozen=True)
class OnlineConfig:
    """What every method has that learns from answers as it gives them."""

    updates: Natural = setting(
        0, "Batches of answers to learn from; 0 for 60 with up to 50 rankings and edits, 120 from 100 on."
    )
    episodes: Count = setting(64, "Answers per update.")
    samples: Count = setting(1, "Answers to the same prompt among them.")
    learning_rate: NotNegative = setting(
        0.0, "Learning rate of the policy's adapter; 0 for 4e-4, less in a model of more than four blocks."
    )
    optimizer: Optimizer = setting("adamw", OPTIMIZER)
    final_rate: Share = setting(0.1, "Share of the learning rates that is left at the end, after a linear decay.")
    rank: Count = setting(16, "Rank of the policy's adapter.")
    kl_coefficient: NotNegative = setting(0.15, "Price of a nat of KL to the reference, at the start.")
    kl_target: Positive = setting(3.0, "KL to steer for, nats per answer.")
    # Much shorter, and the KL swings about its target.
    kl_horizon: Positive = setting(1000.0, "How slowly the price of KL is steered, in episodes.")
    reference_temperature: Positive = setting(
        0.9,
        "Temperature at which the reference counts, at most: where practice is warmer, the policy grows surer of what "
        "the reference finds likely.",
    )
    kl_budget: NotNegative = setting(0.0, "KL at which training ends, nats per answer; 0 for no end.")
    pessimism: NotNegative = setting(
        0.0, "Standard deviations between the reward model's heads that are taken off its score."
    )
    length_target: Natural = setting(0, "Tokens above which an answer pays for its length; 0 for never.")
    length_penalty: NotNegative = setting(0.02, "What it pays for each token above.")
    improbable_floor: Share = setting(0.01, "Tokens that the reference finds less probable than this pay for it.")
    improbable_penalty: NotNegative = setting(
        1.0, "What they pay for each nat below, where the policy has raised them; 0 for nothing."
    )
    missing_eos_penalty: NotNegative = setting(1.0, "Taken off answers without an end or without words.")
    select_every: Natural = setting(
        0, "Updates between looks at held-out prompts, the best of which is kept; 0 keeps the last."
    )
    max_grad_norm: Positive = setting(1.0, "Gradients longer than this are shortened to it.")
    temperature: NotNegative = setting(
        0.0, "Temperature at which the policy answers while it learns; 0 for Chat's usual one."
    )
    max_new_tokens: Natural = setting(
        0, "Longest answer, in tokens; 0 for the longest that was judged, 96 (built-in model) or 256 at least."
    )
    micro_batch: Natural = setting(0, "Answers of a step at a time, to save memory; 0 for all at once.")
    seed: int = setting(0, "Seed of everything that is drawn.")

    def settled(self, feedback: int = 0, usual: Sampling = BUILT_IN) -> Self:
        """The same with as many updates as so many rankings and edits are worth, and answers drawn as `usual`
        ones are, where these are not set.

        A reward model that has seen more can be followed further before it misleads (Gao et al. 2022, section 3.3).
        """
        share = (min(max(feedback, FEW), MANY) - FEW) / (MANY - FEW)
        updates = self.updates or round(UPDATES * (1 + share))
        return replace(
            self,
            updates=updates,
            temperature=self.temperature or usual.temperature,
            max_new_tokens=self.max_new_tokens or usual.max_new_tokens,
        )

    def rate(self, blocks: int) -> float:
        """The learning rate of the policy's adapter in a model of so many blocks."""
        return self.learning_rate or adapter_rate(4e-4, blocks)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer, settled or not."""
        return self.max_new_tokens or BUILT_IN.max_new_tokens

    @property
    def sampling(self) -> Sampling:
        """How the policy answers while it learns."""
        return Sampling(temperature=self.temperature or BUILT_IN.temperature, max_new_tokens=self.longest)


@dataclass(frozen=True)
class PPOConfig(OnlineConfig):
    epochs: Count = setting(4, "Times that an update goes through its answers.")
    minibatches: Count = setting(2, "Parts that an epoch's answers are cut into.")
    value_learning_rate: Positive = setting(5e-3, "Learning rate of the value head.")
    value_adapter: bool = setting(False, "A LoRA adapter of its own for the values.")
    clip: Positive = setting(0.2, "How far the ratio of new to old probability may count.")
    value_clip: Positive = setting(0.2, "How far a value may move in an update.")
    value_weight: NotNegative = setting(0.1, "Weight of the value loss.")
    gamma: Share = setting(1.0, "Discount for each token.")
    lam: Share = setting(0.95, "Lambda of generalised advantage estimation.")
    stop_kl: Positive = setting(0.1, "KL per token within an update at which the update ends.")
    pretraining_weight: NotNegative = setting(
        0.0, "Weight of a language-model loss on good answers beside PPO's (PPO-ptx)."
    )


@dataclass(frozen=True)
class ReinforceConfig(OnlineConfig):
    samples: Count = setting(4, "Answers to the same prompt.")
    baseline: Literal["none", "mean", "leave-one-out", "group"] = setting(
        "leave-one-out", "What is taken off a reward: nothing, the batch's mean, RLOO's or GRPO's."
    )
    epochs: Count = setting(2, "Times that an update goes through its answers.")
    minibatches: Count = setting(2, "Parts that an epoch's answers are cut into.")
    clip: Positive = setting(0.2, "How far the ratio of new to old probability may count.")
