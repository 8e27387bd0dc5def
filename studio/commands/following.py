"""A run that is watched from the command line: how far it is, and what came of it, in words."""

import sys
import time

import click

import engine
from studio.commands.common import say


def follow(space, store, run_id: int) -> None:
    """Show a run's progress on standard error until it has ended; a bar a stage where someone looks on."""
    bar, stage = None, ""
    try:
        while True:
            engine.launcher.refresh(space, store)
            run = engine.runs.get_run(store, run_id)
            if run["stage"] != stage:
                _end(bar)
                stage = run["stage"]
                bar = click.progressbar(length=max(run["total"], 1), label=f"{stage:<9}", file=sys.stderr)
                bar.render_progress()
            if bar:
                bar.length = max(run["total"], 1)
                bar.update(run["done"] - bar.pos)
            if run["status"] in engine.runs.ENDED:
                return
            time.sleep(0.3)
    except KeyboardInterrupt:
        say(
            f"\nRun {run_id} goes on by itself: `rlhf-studio runs show {run_id}` tells how far it is, "
            f"`rlhf-studio runs stop {run_id}` stops it."
        )
        click.get_current_context().exit(130)
    finally:
        _end(bar)


def _end(bar) -> None:
    if bar:
        bar.render_finish()


def compared(result: dict) -> str:
    """What a comparison found."""
    text = f"{result['prompts']} prompts, KL {result['kl']:.2f} nats."
    if "win_rate" in result:
        low, high = result["win_rate_low"], result["win_rate_high"]
        text += f" By the {result['judge']}, after wins {result['win_rate']:.0%} ({low:.0%} to {high:.0%})."
    return text


def outcome(store, run_id: int) -> list[str]:
    """What a run has made and how good it is, a line each."""
    run = engine.runs.get_run(store, run_id)
    found = run["result"]
    lines = []
    if number := found.get("reward_model"):
        version = engine.versions.once_made(store, number)
        report = version["facts"].get("report") or {}
        lines.append(f"{version['name']}: a reward model, from {version['facts']['train_rankings']} rankings.")
        if report.get("pairs"):
            low, high = report["accuracy_low"], report["accuracy_high"]
            lines.append(
                f"It orders {report['accuracy']:.0%} of {report['pairs']} pairs that it never saw as you did "
                f"({low:.0%} to {high:.0%})."
            )
    if run["model_version_id"] not in (None, number):
        made, parent = (engine.versions.once_made(store, run[key]) for key in ("model_version_id", "parent_version_id"))
        name = made["name"]
        lines.append(f"{name}: a version of {parent['name']}{', deleted since' if made['deleted'] else ''}.")
        if "comparison" in found:
            lines.append(f"{parent['name']} before, {name} after: {compared(found['comparison'])}")
        if not made["deleted"]:
            lines.append(f'Ask it: rlhf-studio chat -m {name} -p "..."')
    return lines
