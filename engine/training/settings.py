"""Kinds of settings, and those that every method on stored examples has. Needs no torch."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

Optimizer = Literal["adamw", "adamw-8bit"]
MIN_STEPS = "Steps at least: little feedback is gone through more often."
OPTIMIZER = "AdamW, with its moments in float32 or, in a quarter of the memory, in 8 bits."


def setting(default: Any, meaning: str) -> Any:
    """A setting with its default and what it means, in a sentence for people."""
    return field(default=default, metadata={"meaning": meaning})


BLOCKS = 4  # of the model that the usual learning rates were found on


def adapter_rate(rate: float, blocks: int) -> float:
    """What a learning rate of `rate` for adapters in a model of `BLOCKS` comes to in one of so many blocks.

    Adam's steps are of one length in each block, and those of all blocks add up in what the model says.
    """
    return rate * min(1.0, BLOCKS / blocks)


@dataclass(frozen=True)
class FitConfig:
    ANSWERS: ClassVar[int] = 1  # of an example
    BY_ANSWER: ClassVar[bool] = False  # whether each answer that was judged is an example, not each piece of feedback
    RATE: ClassVar[float] = 5e-4  # of adapters, in a model of `BLOCKS`
    epochs: Count = setting(3, "Times that all examples are gone through.")
    batch: Count = setting(8, "Examples per optimiser step.")
    min_steps: Natural = setting(24, MIN_STEPS)
    max_steps: Natural = setting(
        0, "Steps at most, but all feedback once: much of it is gone through less often; 0 for no limit."
    )
    micro_batch: Natural = setting(0, "Examples of a step at a time, to save memory; 0 for all at once.")
    learning_rate: NotNegative = setting(
        0.0, "Learning rate of adapters at its peak; 0 for 5e-4, less in a model of more than four blocks."
    )
    optimizer: Optimizer = setting("adamw", OPTIMIZER)
    weight_decay: NotNegative = setting(0.0, "AdamW's weight decay.")
    warmup: Share = setting(0.1, "Share of training in which the rate rises.")
    max_grad_norm: Positive = setting(1.0, "Gradients longer than this are shortened to it.")
    rank: Count = setting(16, "Rank of the LoRA adapter.")
    max_length: Count = setting(1024, "Tokens of a prompt with its answer; the start of a longer one is left out.")
    seed: int = setting(0, "Seed of everything that is drawn.")

    def rate(self, blocks: int) -> float:
        """The learning rate of adapters in a model of so many blocks."""
        return self.learning_rate or adapter_rate(self.RATE, blocks)

    def steps(self, examples: int) -> int:
        """Optimiser steps that so many examples get: whole epochs, `min_steps` at least and `max_steps` at most."""
        an_epoch = -(-examples // self.batch)
        epochs = max(self.epochs, -(-self.min_steps // an_epoch))
        if self.max_steps:
            epochs = max(1, min(epochs, self.max_steps // an_epoch))
        return an_epoch * epochs
