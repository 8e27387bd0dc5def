"""`rlhf-studio train`: one method, start to end."""

from pathlib import Path

import click

import engine
from studio.commands.common import answer_with, in_workspace, version_of
from studio.commands.following import follow, outcome


@click.command(
    epilog="Methods:\n\n\b\n" + "\n".join(f"{name:<10} {what}" for name, what in engine.launcher.METHODS.items()),
)
@click.argument("method")
@click.option("--base", help="What to start from: a model version, a folder, or a cached model.")
@click.option(
    "--preset", type=click.Choice(list(engine.presets.EFFORT)), default="balanced", show_default=True,
    help="How thorough: quick takes a quarter of PPO's updates, longer ones; thorough twice the steps.",
)  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, such as ppo.updates=20.")
@click.option(
    "--reward-function", metavar="FILE.PY:NAME",
    help="A Python function (prompt, response) -> float that scores answers, for ppo and reinforce.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Return at once; `runs show` tells how it goes.")
@in_workspace
def train(space, store, method: str, base, preset, settings, reward_function, detach: bool, as_json: bool) -> None:
    """Train by METHOD and keep what comes out as a model version."""
    if reward_function:
        if method not in ("ppo", "reinforce"):
            raise engine.UserError("--reward-function scores answers for the methods ppo and reinforce.")
        path, colon, name = reward_function.rpartition(":")
        if not colon or not Path(path).is_file():
            raise engine.UserError(f'There is no reward function "{reward_function}". Write it as file.py:name.')
        settings = [*settings, f"reward_function={Path(path).resolve()}:{name}"]
    parent = version_of(store, base)
    chosen = engine.presets.assignments(preset, engine.feedback_log.compared(store), Path(parent["base"]))
    config = engine.parse_settings([*chosen, *settings], method)
    if method in engine.launcher.NEEDS_FEEDBACK and not engine.feedback_log.counts(store)["prompts"]:
        raise engine.UserError(
            "There is no feedback in this workspace yet. Rank some answers on the page first, "
            "or try `rlhf-studio demo`."
        )
    run_id = engine.launcher.start(space, store, method, config, parent["id"])
    if not detach:
        follow(space, store, run_id)
    result = engine.launcher.summary(store, run_id)
    lines = [f"run {run_id}: {result['status']} {result['reason']}".rstrip(), *outcome(store, run_id)]
    answer_with(result, as_json, "\n".join(lines))
    if result["status"] == "failed":
        raise engine.UserError(f"run {run_id} failed: {result['reason']}")
