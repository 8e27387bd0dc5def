"""The estimates of memory and time against what runs take, on a CPU.

    python benchmarks/estimate.py

PPO on random Llamas of several shapes, each in a process of its own. Answers as good as never end, so their length is
known; then reward models, DPO and Q-learning on rankings of answers as long. Memory measured is the highest resident
memory above that before the model was loaded; time is told from the machine's speed. Then one run of Improve on the
built-in model, told from the machine's speed, and others with other settings, told from the first.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from sides import line, peak, resident

# Width, layers, and settings that are not the usual ones.
CASES: dict[str, tuple[int, int, dict]] = {
    "192 x 4": (192, 4, {}),
    "512 x 6": (512, 6, {}),
    "768 x 8": (768, 8, {}),
    "384 x 12": (384, 12, {}),
    "512 x 6, blocks computed again": (512, 6, {"recompute": "always"}),
    "768 x 8, blocks computed again": (768, 8, {"recompute": "always"}),
    "512 x 6, bf16": (512, 6, {"precision": "bf16"}),
    "768 x 8, bf16": (768, 8, {"precision": "bf16"}),
    "512 x 6, nf4": (512, 6, {"precision": "nf4"}),
    "384 x 12, nf4": (384, 12, {"precision": "nf4"}),
}
LEARNING = {
    f"{width} x {layers}, {stage}": (width, layers, stage)
    for width, layers in ((512, 6), (768, 8))
    for stage in ("reward", "dpo", "ilql")
}
EPISODES, MINIBATCHES, NEW_TOKENS = 32, 2, 64


def within(what: str, told: float, found: float, bound: float) -> None:
    """One row: an estimate against what was found, and whether it is off by a share `bound` at most."""
    ratio = told / found
    line(what, told, found, ratio, f"within {bound:.0%}", abs(ratio - 1) <= bound)


def a_model(folder: str, width: int, layers: int) -> Any:
    """Save a random Llama that reads as the built-in model does. Returns its tokenizer."""
    from engine.methods.text import new_model
    from engine.models.load import load_base

    tokenizer = load_base("pocket").tokenizer
    new_model(tokenizer, width, layers, 512, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def measure(width: int, layers: int, others: dict) -> dict:
    """Bytes and seconds estimated and measured of a PPO run of two updates."""
    from engine.estimate import memory
    from engine.jobs.config import read_config
    from engine.machine import give_freed_memory_back, keep_freed_memory
    from engine.methods.ppo import train_ppo
    from engine.models.load import load_base
    from engine.models.precision import fastest
    from engine.models.roles import Roles
    from engine.models.shape import shape_of
    from engine.prompts import load_prompts
    from engine.timing import Clock, machine_speed

    class Lengths:
        def scores(self, answers):
            return torch.tensor([float(len(a.ids)) for a in answers])

    settings = {"episodes": EPISODES, "minibatches": MINIBATCHES, "max_new_tokens": NEW_TOKENS, "updates": 2}
    config = read_config({"precision": "float32", **others, "ppo": settings})
    with tempfile.TemporaryDirectory() as folder:
        a_model(folder, width, layers)
        keep_freed_memory()  # as a run's process does
        before = resident()
        roles = Roles(load_base(folder, config.precision))
        if config.recompute == "always":
            roles.recompute()
            give_freed_memory_back()
        roles.add("policy", rank=config.ppo.rank)
        prompts = [[{"role": "user", "content": p}] for p in load_prompts("everyday")]
        shape = shape_of(Path(folder))
        clock = Clock(shape, machine_speed(), 13, NEW_TOKENS, config.recompute == "always")
        told = clock.stage(config, "ppo", 0)
        started = time.perf_counter()
        train_ppo(roles, Lengths(), prompts, config.ppo)
        taken = time.perf_counter() - started
        measured = (peak() - before) * 2**20
        usual = fastest(shape, "cpu")  # what an NF4 base computes in
        estimated = memory(shape, config, "ppo", config.precision, usual, prompt=13, answer=NEW_TOKENS)
    return {"measured": measured, **estimated, "told": told * 1e6, "taken": taken * 1e6}


def measure_learning(width: int, layers: int, stage: str) -> dict:
    """Bytes estimated and measured of a few steps on rankings of four answers of `NEW_TOKENS` tokens."""
    from engine.estimate import memory
    from engine.feedback.examples import Ranking, Valued
    from engine.jobs.config import read_config
    from engine.machine import keep_freed_memory
    from engine.methods.dpo import train_dpo
    from engine.methods.ilql import train_ilql
    from engine.methods.reward import train_reward
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.models.shape import shape_of
    from engine.prompts import load_prompts

    config = read_config({stage: {"epochs": 1, "min_steps": 4}})
    asked = load_prompts("everyday")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = a_model(folder, width, layers)
        tokens = tokenizer(" ".join(asked))["input_ids"]
        answers = [tokenizer.decode(tokens[i * NEW_TOKENS : (i + 1) * NEW_TOKENS]) for i in range(64)]
        rankings = [
            Ranking((("user", asked[i]),), tuple(answers[4 * i : 4 * i + 4]), (1, 2, 3, 4), (True,) * 4)
            for i in range(16)
        ]
        valued = [
            Valued(r.prompt, text, float(rank), "ranking", True)
            for r in rankings
            for text, rank in zip(r.responses, r.ranks, strict=True)
        ]
        keep_freed_memory()
        before = resident()
        roles = Roles(load_base(folder, "float32"))
        if stage != "reward":  # which makes an adapter of its own
            roles.add("policy", rank=getattr(config, stage).rank)
        if stage == "reward":
            train_reward(roles, rankings, [], config.reward)
        elif stage == "dpo":
            train_dpo(roles, rankings, config.dpo)
        else:
            train_ilql(roles, valued, config.ilql)
        measured = (peak() - before) * 2**20
        told = memory(shape_of(Path(folder)), config, stage, "float32", prompt=13, answer=NEW_TOKENS)
    return {"measured": measured, **told}


OTHERS = {
    "twice the updates": ["ppo.updates=12"],
    "twice the answers": ["ppo.episodes=128"],
    "half the epochs": ["ppo.epochs=2"],
    "half the reward model's steps": ["reward.min_steps=60", "reward.epochs=1"],
}


def times() -> None:
    """Runs one after another on the same feedback; the estimate of each is from the first."""
    import engine
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.pocket.annotator import SimulatedAnnotator
    from engine.pocket.demo import label

    with tempfile.TemporaryDirectory() as folder:
        workspace = engine.open_workspace(folder)
        store = engine.Store(workspace.database)
        base = load_base("pocket")
        version = engine.versions.ensure_base(store, str(base.path), base.fingerprint, "pocket")
        label(store, Roles(base), None, version, SimulatedAnnotator("warm"), 24, 0, "random")
        feedback = engine.feedback_log.counts(store)["ranking"]

        def run(config: dict) -> float:
            number = engine.launcher.start(workspace, store, "improve", config, version)
            while engine.runs.get_run(store, number)["status"] not in engine.runs.ENDED:
                time.sleep(0.2)
            stages = engine.runs.stages_of(store, number)
            return stages[-1]["ended"] - stages[0]["started"]

        def told(config: dict) -> float:
            settings = engine.read_config(config)
            return engine.timing.seconds(store, "improve", settings, base.fingerprint, feedback) or 0.0

        usual = ["ppo.updates=6", "compare.prompts=32"]
        first, shape = engine.read_config(engine.parse_settings(usual)), engine.shapes.shape_of(base.path)
        estimate = engine.timing.first_seconds(store, "improve", first, shape, feedback) or 0.0
        taken = run(engine.parse_settings(usual))
        within("time estimate before any run, s", estimate, taken, 0.3)
        configs = {name: engine.parse_settings([*usual, *settings]) for name, settings in OTHERS.items()}
        for name, estimate in [(name, told(config)) for name, config in configs.items()]:
            within(f"time estimate, {name}, s", estimate, run(configs[name]), 0.3)


@click.command()
@click.option("--case", hidden=True)
def main(case: str | None) -> None:
    if case:
        found = measure(*CASES[case]) if case in CASES else measure_learning(*LEARNING[case])
        click.echo(json.dumps(found))
        return

    def in_its_own_process(name: str) -> dict:
        done = subprocess.run([sys.executable, __file__, "--case", name], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        click.echo(json.dumps({key: round(value / 1e6, 1) for key, value in found.items()}))
        within(f"memory estimate, {name}, MB", found["total"] / 1e6, found["measured"] / 1e6, 0.15)
        return found

    for name, (_, _, others) in CASES.items():
        if others.get("precision") == "bf16" and not torch.cpu._is_avx512_bf16_supported():
            continue  # twenty times slower there, and never chosen
        found = in_its_own_process(name)
        if "precision" not in others:  # how much faster or slower another is was never tried for shapes so small
            within(f"time estimate, {name}, s", found["told"] / 1e6, found["taken"] / 1e6, 0.3)
    for name in LEARNING:
        in_its_own_process(name)
    times()


if __name__ == "__main__":
    main()
