"""Where a PPO update's time goes, how near it is to what the machine can do, and how it grows as the work grows.

    python benchmarks/ppo_cost.py

On random Llamas whose answers as good as never end, so that their length is known. One process, medians of three.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from sides import line
from torch.utils.flop_counter import FlopCounterMode

from engine.methods import online, ppo
from engine.methods.online import train_online
from engine.methods.ppo import PPO
from engine.methods.reward import RewardModel
from engine.methods.settings import PPOConfig
from engine.methods.text import new_model
from engine.models.heads import RewardHead
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.prompts import load_prompts

USUAL = {"layers": 4, "episodes": 16, "max_new_tokens": 48, "samples": 1}
ASKED = [[{"role": "user", "content": p}] for p in load_prompts("everyday")]


def setting(folder: Path, layers: int) -> tuple[Roles, RewardModel]:
    tokenizer = load_base("pocket").tokenizer
    new_model(tokenizer, 256, layers, 512, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return with_roles(str(folder))


def with_roles(base: str) -> tuple[Roles, RewardModel]:
    """`base` with a policy and a reward model that know nothing yet."""
    roles = Roles(load_base(base))
    for role in ("policy", "reward"):
        roles.add(role)
    return roles, RewardModel(roles, [("reward", RewardHead(roles.width))])


def seconds(layers: int, **changes: Any) -> float:
    """Of an update, the median of three after one to warm up."""
    config = PPOConfig(updates=1, **changes)
    with tempfile.TemporaryDirectory() as folder:
        roles, reward = setting(Path(folder), layers)
        learner, taken = PPO(roles, config), []
        for _ in range(4):
            started = time.perf_counter()
            train_online("ppo", roles, learner, reward, ASKED, config)
            taken.append(time.perf_counter() - started)
    return median(taken[1:])


def share_outside() -> float:
    """Share of an update that is neither a pass through a model, forward or backward, nor sampling."""
    spent: dict[str, float] = defaultdict(float)

    def timed(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                spent[name] += time.perf_counter() - started

        setattr(owner, name, outer)

    kept = [(online, "rollout"), (online, "response_pass"), (RewardModel, "scores"), (PPO, "values"),
            (ppo, "response_pass"), (torch.Tensor, "backward")]  # fmt: skip
    originals = [(owner, name, getattr(owner, name)) for owner, name in kept]
    for owner, name in kept:
        timed(owner, name)
    config = PPOConfig(updates=3)
    try:
        roles, reward = with_roles("pocket")
        learner = PPO(roles, config)
        train_online("ppo", roles, learner, reward, ASKED, PPOConfig(updates=1))
        spent.clear()
        started = time.perf_counter()
        train_online("ppo", roles, learner, reward, ASKED, config)
        whole = time.perf_counter() - started
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
    return 1 - sum(spent.values()) / whole


def operations(work: Callable[[], Any]) -> tuple[float, float]:
    """(operations in matrix products and attention, seconds) of `work`: done to warm up, to time it, and to count."""
    work()
    started = time.perf_counter()
    work()
    taken = time.perf_counter() - started
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()), taken


def reached(name: str, layers: int | None) -> None:
    """How near an update comes to the bound: its operations at the speed of one large product."""
    a = torch.ones(2048, 2048)
    peak = max(count / taken for count, taken in (operations(lambda: a @ a) for _ in range(3)))
    config = PPOConfig(updates=1, episodes=32, max_new_tokens=48)
    with tempfile.TemporaryDirectory() as folder:
        roles, reward = setting(Path(folder), layers) if layers else with_roles("pocket")
        learner = PPO(roles, config)
        count, taken = operations(lambda: train_online("ppo", roles, learner, reward, ASKED[:64], config))
    speed = count / taken
    line(f"PPO, {name}, GFLOP/s, against a large product's", speed / 1e9, peak / 1e9, speed / peak, "its bound", None)


@click.command()
def main() -> None:
    reached("answers that end", None)
    reached("fixed length", 5)
    share = share_outside()
    line("PPO, share outside passes and sampling", share, 1.0, share, "at most 0.10", share <= 0.10)
    usual = seconds(**USUAL)
    for name, double in (
        ("answers twice as long", {"max_new_tokens": 96}),
        ("twice as many answers", {"episodes": 32}),
        ("twice as many to a prompt", {"episodes": 32, "samples": 2}),
        ("twice as deep", {"layers": 8}),
    ):
        taken = seconds(**USUAL | double)
        ratio = taken / usual
        line(f"PPO, {name}, seconds an update", taken, usual, ratio, "at most 2.1x", ratio <= 2.1)


if __name__ == "__main__":
    main()
