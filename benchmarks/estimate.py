"""The memory estimate against what a run takes: PPO on random Llamas of several shapes, on a CPU.

    python benchmarks/estimate.py

Each shape runs in a process of its own; measured is the highest resident memory above that before the model was
loaded. Answers as good as never end, so their length is known.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from sides import line, peak, resident

SHAPES = {"192 x 4": (192, 4), "512 x 6": (512, 6), "768 x 8": (768, 8), "1024 x 4": (1024, 4)}
EPISODES, MINIBATCHES, NEW_TOKENS = 32, 2, 64


def measure(width: int, layers: int) -> dict:
    """Bytes estimated and measured of a PPO run of two updates."""
    from engine.estimate import memory, shape_of
    from engine.jobs.config import read_config
    from engine.methods.ppo import train_ppo
    from engine.methods.text import new_model
    from engine.models.load import load_base
    from engine.models.roles import Roles
    from engine.prompts import load_prompts

    class Lengths:
        def scores(self, answers):
            import torch

            return torch.tensor([float(len(a.ids)) for a in answers])

    settings = {"episodes": EPISODES, "minibatches": MINIBATCHES, "max_new_tokens": NEW_TOKENS, "updates": 2}
    config = read_config({"ppo": settings})
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_base("pocket").tokenizer
        new_model(tokenizer, width, layers, 512, 0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        before = resident()
        roles = Roles(load_base(folder))
        roles.add("policy", rank=config.ppo.rank)
        prompts = [[{"role": "user", "content": p}] for p in load_prompts("everyday")]
        train_ppo(roles, Lengths(), prompts, config.ppo)
        measured = (peak() - before) * 2**20
        estimated = memory(shape_of(Path(folder)), config, "ppo", "float32", prompt=13, answer=NEW_TOKENS)
    return {"measured": measured, **estimated}


@click.command()
@click.option("--shape", hidden=True)
def main(shape: str | None) -> None:
    if shape:
        click.echo(json.dumps(measure(*SHAPES[shape])))
        return
    for name in SHAPES:
        done = subprocess.run(
            [sys.executable, __file__, "--shape", name], stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        click.echo(json.dumps({key: round(value / 1e6, 1) for key, value in found.items()}))
        ratio = found["total"] / found["measured"]
        held = abs(ratio - 1) <= 0.15
        line(f"memory estimate, {name}, MB", found["total"] / 1e6, found["measured"] / 1e6, ratio, "within 15%", held)


if __name__ == "__main__":
    main()
