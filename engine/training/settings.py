"""Kinds of settings, and those that every method on stored examples has. Needs no torch."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class FitConfig:
    epochs: Count = 3
    batch: Count = 8  # examples per optimiser step
    micro_batch: Natural = 0  # examples of a step at a time, to save memory; 0 for all at once
    learning_rate: Positive = 5e-4  # at its peak
    weight_decay: NotNegative = 0.0
    warmup: Share = 0.1  # share of training
    max_grad_norm: Positive = 1.0
    rank: Count = 16  # of the LoRA adapter
    max_length: Count = 1024  # tokens of a prompt with its answer; the start of a longer one is left out
    seed: int = 0
