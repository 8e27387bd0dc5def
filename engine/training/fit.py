"""The loop of every method that learns from stored examples: epochs, batches, warm-up, checkpoints, metrics.

A method gives an `Objective`; its batch loss is the sum over examples divided by the sum of their weights, so how a
batch is cut into micro-batches changes nothing but memory.
"""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from engine.training import checkpoint
from engine.training.context import Context, Stopped
from engine.training.optimizers import Steps, adamw
from engine.training.parts import Parts
from engine.training.settings import FitConfig

Example = TypeVar("Example")
Figures = dict[str, tuple[float, float]]  # name -> (sum, count); a mean over a batch is sum / count


class Objective(ABC, Generic[Example]):
    """What a method minimises."""

    def weight(self, example: Example) -> float:
        """How much an example counts in its batch's mean."""
        return 1.0

    def begin(self, batch: list[Example]) -> None:
        """Look at a whole batch before its loss is taken piece by piece."""

    @abstractmethod
    def loss(self, part: list[Example]) -> tuple[Tensor, Figures]:
        """(sum of the weighted losses of `part`, figures to report)."""

    def stepped(self) -> None:
        """An optimiser step was taken."""

    def state(self) -> list[Tensor]:
        """Tensors that no optimiser trains and a resumed run needs."""
        return []


def schedule(progress: float, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up, then linear decay to a fiftieth; progress from 0 to 1."""
    return min(1.0, progress / warmup if warmup else 1.0) * max(1 - progress, 0.02)


def batches_of(examples: Sequence[Example], config: FitConfig, step: int) -> list[Example]:
    """The examples of a step, a function of (seed, step) alone; every epoch sees each example once."""
    per_epoch = -(-len(examples) // config.batch)
    epoch, place = divmod(step, per_epoch)
    order = random.Random(f"{config.seed} {epoch}").sample(range(len(examples)), len(examples))
    return [examples[i] for i in order[place * config.batch : (place + 1) * config.batch]]


def fit(
    stage: str,
    examples: Sequence[Example],
    objective: Objective[Example],
    groups: list[dict],
    config: FitConfig,
    context: Context,
    checkpoints: Path | None = None,
    half: bool = False,
) -> dict[str, float]:
    """Minimise `objective` over `examples` with AdamW; returns the last step's figures.

    groups: AdamW's parameter groups with their peak learning rates. half: whether the base computes in float16.
    Raises Stopped, the state kept in `checkpoints`, where someone asked for that.
    """
    steps = Steps(adamw(groups, config.optimizer, weight_decay=config.weight_decay), config.max_grad_norm, half)
    peaks = [group["lr"] for group in groups]
    total = config.steps(len(examples))
    kept = checkpoint.load(checkpoints, [steps]) if checkpoints else {}
    first = kept.get("step", 0)
    for tensor, value in zip(objective.state(), kept.get("state", []), strict=bool(kept)):
        tensor.copy_(value)
    figures: dict[str, float] = {}
    parts = Parts(config.micro_batch)
    saved = time.monotonic()

    def save(step: int) -> None:
        if checkpoints and step:
            checkpoint.save(checkpoints, [steps], step=step, state=objective.state())

    for step in range(first, total):
        try:
            context.stage(stage, step, total)
        except Stopped:
            save(step)
            raise
        scale = schedule((step + 1) / total, config.warmup)
        for group, peak in zip(steps.param_groups, peaks, strict=True):
            group["lr"] = peak * scale
        figures = _accumulate(objective, batches_of(examples, config, step), parts, steps)
        figures["grad_norm"] = steps.step()
        objective.stepped()
        context.metrics(stage, step + 1, figures)
        if time.monotonic() - saved > checkpoint.EVERY:
            save(step + 1)
            saved = time.monotonic()
    if first < total:
        save(total)
    context.stage(stage, total, total)
    return figures


def _accumulate(objective: Objective[Example], batch: list[Example], parts: Parts, steps: Steps) -> dict[str, float]:
    """Leave the gradient of the batch's mean loss; returns the batch's figures."""
    objective.begin(batch)
    weight = sum(map(objective.weight, batch)) or 1.0

    def part(start: int, end: int) -> tuple[float, Figures]:
        loss, figures = objective.loss(batch[start:end])
        steps.back(loss / weight)
        return float(loss.detach()) / weight, figures

    done = parts.each(len(batch), part, steps.forget)
    sums: dict[str, list[float]] = {}
    for name, (value, count) in (item for _, figures in done for item in figures.items()):
        kept = sums.setdefault(name, [0.0, 0.0])
        kept[0] += value
        kept[1] += count
    total = sum(loss for loss, _ in done)
    return {"loss": total} | {name: value / count for name, (value, count) in sums.items() if count}
