"""How long a run will take, before it starts. Needs no torch.

From a finished run of its method on its base, scaled by how much work there is. Before the first one, on a
CPU, from the model's shape and how fast this machine multiplies matrices: products, the memory that everything else
goes through, and what each block costs however little there is to compute. Settings are those of a run that is queued
(`RunConfig.settled`).
"""

import json
import math
import os
import time
from functools import cache

import numpy as np

from engine.estimate import ANSWERED, PROMPT, stages_of
from engine.jobs.config import RunConfig, read_config
from engine.methods.settings import RANKED, PPOConfig, PretrainConfig, ReinforceConfig
from engine.models.precision import fastest, known
from engine.models.shape import Shape
from engine.store import feedback as judged
from engine.store import runs
from engine.store.db import Store
from engine.training.settings import FitConfig

LOOKED_BACK = 8  # finished runs among which the most alike is looked for

# Fitted to runs of models of 2 to 40 million parameters on two cores (benchmarks/estimate.py).
REACHED = 1.2  # speed of torch's products against that of numpy's one large one
TOUCHED = 2.8e9  # bytes a second that go through what a block keeps, which is everything but the products
CLEARED = 0.4e9  # of these, where freed memory goes back at once: it is fetched seven times, as pages to be cleared
BLOCK_PASS, BLOCK_STEP = 2e-3, 0.5e-3  # seconds a block takes in a pass and in a sampling step, however little there is
THERE_AND_BACK = 2.3  # a pass with gradients against one without; frozen weights take none
LONGEST = 2.5  # the longest of a batch's answers against their mean


ANSWERS = {"ranking": RANKED, "edit": 2, "rating": 1}  # that a piece of feedback judges


def examples_each(store: Store, config: RunConfig, method: str) -> float:
    """Examples that `method` makes of a piece of feedback such as the store has: one, or all answers it judges."""
    if not getattr(getattr(config, method, None), "BY_ANSWER", False):
        return 1.0
    counts = judged.counts(store)
    pieces = sum(counts[kind] for kind in ANSWERS) or 1
    return sum(counts[kind] * answers for kind, answers in ANSWERS.items()) / pieces


def work(config: RunConfig, stage: str, feedback: int) -> float:
    """How much a stage does, in units that only compare with themselves. feedback: examples it learns from."""
    settings = getattr(config, stage, None)
    if isinstance(settings, PPOConfig | ReinforceConfig):
        # An answer is written once, read by reference and reward once each, and twice (there and back) an epoch.
        return settings.updates * settings.episodes * (3 + 2 * settings.epochs)
    if stage == "compare":
        return config.compare.prompts
    if isinstance(settings, PretrainConfig):
        return settings.tokens
    if isinstance(settings, FitConfig):
        return settings.steps(max(feedback, 1)) * settings.batch
    return 1.0


def seconds(store: Store, method: str, config: RunConfig, base_fingerprint: str, feedback: int) -> float | None:
    """How long a run will take, from a finished run of the method on the same base; None without one.

    Of the newest few it is the one with the most alike to do: a trial on a handful of answers says little of batches.
    """
    rows = store.rows(
        "SELECT r.id, r.config, (SELECT count(*) FROM run_feedback WHERE run_id = r.id) AS used "
        "FROM runs r JOIN model_versions v ON v.id = r.parent_version_id "
        "WHERE r.method = ? AND r.status = 'finished' AND v.base_fingerprint = ? ORDER BY r.id DESC LIMIT ?",
        method,
        base_fingerprint,
        LOOKED_BACK,
    )
    each = examples_each(store, config, method)
    told = [_scaled(store, {**row, "used": round(row["used"] * each)}, config, round(feedback * each)) for row in rows]
    return min(told, key=lambda one: one[0])[1] if told else None


def _scaled(store: Store, row: dict, config: RunConfig, feedback: int) -> tuple[float, float]:
    """(how unlike the run of `row` is in what it did, seconds that its pace makes of `config`)."""
    before = read_config(json.loads(row["config"]))
    unlike = total = 0.0
    for stage in runs.stages_of(store, row["id"]):
        if stage["ended"]:
            ratio = work(config, stage["name"], feedback) / work(before, stage["name"], row["used"])
            unlike += abs(math.log(ratio))
            total += (stage["ended"] - stage["started"]) * ratio
    return unlike, total


@cache
def machine_speed() -> float:
    """float32 operations a second in a product of two large matrices on all cores: the best of a few."""
    a = np.ones((1024, 1024), np.float32)
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def lengths(store: Store) -> tuple[int, int]:
    """(tokens of a prompt, tokens of an answer) on average in the store; 0 for what is not known. Of a prompt, and of
    an answer that no model of ours wrote, the tokens are a quarter of the letters."""
    row = store.row(
        "SELECT (SELECT avg(length(text)) / 4 FROM prompts) AS p,"
        " (SELECT avg(coalesce(nullif(tokens, 0), length(text) / 4)) FROM responses) AS a"
    )
    return (int(row["p"] or 0), int(row["a"] or 0)) if row else (0, 0)


class Clock:
    """What a CPU of `speed` operations a second takes for passes and answers of a model."""

    def __init__(self, shape: Shape, speed: float, prompt: int = 0, answer: int = 0, recompute: bool = False):
        self.shape, self.speed = shape, speed * REACHED
        self.prompt, self.answer = prompt or PROMPT, answer
        self.recompute = recompute

    def _kept(self, tokens: int) -> float:
        """Bytes that the blocks keep of so many tokens."""
        return 4 * tokens * self.shape.layers * self.shape.kept()

    def _reading(self, tokens: int, heads: int) -> float:
        """Blocks over so many tokens, and the vocabulary for `heads` of them."""
        blocks = self.shape.parameters - self.shape.embedding
        products = 2 * (tokens * blocks + heads * self.shape.vocabulary * self.shape.width)
        return products / self.speed + self._kept(tokens) / TOUCHED

    def passing(self, rows: int, heads: bool = True, train: bool = False, answers: int = 1) -> float:
        """One pass over `rows` prompts with so many answers to each; with `heads`, to the vocabulary too."""
        answered = answers * self.answer
        tokens = rows * (self.prompt + answered)
        once = self._reading(tokens, heads * rows * answered) + self.shape.layers * BLOCK_PASS
        if not train:
            return once
        again = once + self._kept(tokens) / CLEARED if self.recompute else 0.0
        return once * THERE_AND_BACK + again

    def answering(self, rows: int, longest: int) -> float:
        """Writing an answer to each of `rows` prompts at once."""
        steps = min(longest, LONGEST * self.answer)
        reading = self._reading(rows * (self.prompt + self.answer), rows * self.answer)
        return reading + steps * self.shape.layers * BLOCK_STEP

    def stage(self, config: RunConfig, name: str, feedback: int) -> float:
        settings = getattr(config, name)
        if name == "compare":
            return 2 * self.answering(settings.prompts, config.ppo.longest) + 2 * self.passing(settings.prompts)
        if name in ("ppo", "reinforce"):
            parts = settings.epochs * settings.minibatches
            learning = parts * self.passing(settings.episodes // settings.minibatches, train=True)
            read = self.passing(settings.episodes) + self.passing(settings.episodes, heads=False)
            return settings.updates * (self.answering(settings.episodes, settings.longest) + read + learning)
        one = self.passing(settings.batch, heads=name != "reward", train=True, answers=settings.ANSWERS)
        learning = settings.steps(max(feedback, 1)) * one
        if name != "reward":
            return learning
        asked = settings.NORMALISED
        return learning + self.answering(asked, config.ppo.longest) + self.passing(asked, heads=False)


def first_seconds(store: Store, method: str, config: RunConfig, shape: Shape, feedback: int) -> float | None:
    """How long a run on this machine's CPU will take, no run before it; None where its method has no estimate."""
    stages = stages_of(method)
    if not stages:
        return None
    if method != "reward":  # what ends in a policy is compared with what it began as
        stages = (*stages, "compare")
    prompt, answer = lengths(store)
    speed = machine_speed() * (min(1.0, config.threads / (os.cpu_count() or 1)) if config.threads else 1.0)
    answer = answer or int(ANSWERED * config.ppo.longest)
    clock = Clock(shape, speed, prompt, answer, config.recompute == "always")
    feedback = round(feedback * examples_each(store, config, method))
    return _pace(shape, config) * sum(clock.stage(config, stage, feedback) for stage in stages)


def _pace(shape: Shape, config: RunConfig) -> float:
    """How much longer passes in the run's precision take here than in float32; 1 where that was never tried."""
    precision = fastest(shape, "cpu") if config.precision == "nf4" else config.precision
    seconds = known(shape, "cpu")
    return seconds[precision] / seconds["float32"] if precision in seconds else 1.0
