"""`rlhf-studio demo`: the loop without a person."""

import signal
import tempfile

import click

import engine
from studio.commands.common import answer_with, in_folder, say


@click.command()
@click.option("--labels", default=50, show_default=True, help="How many rankings of 4 answers.")
@click.option("--prefer", default="warm", show_default=True, help="The taste, such as warm, terse or warm+correct.")
@click.option("--seed", default=0, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the run.")
@click.option(
    "--errs",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Share of the pairs that the annotator gets wrong while ranking.",
)
@click.option(
    "--rounds", default=1, show_default=True, type=click.IntRange(1),
    help="How often to rank and improve, each from the last.",
)  # fmt: skip
@click.option(
    "--choose", type=click.Choice(["random", "telling", "active"]), default="random", show_default=True,
    help="Rank answers as they were drawn, of many those that tell most, or those a reward model is least sure of.",
)  # fmt: skip
@click.option(
    "--method", type=click.Choice(["improve", "reinforce", "dpo", "kto", "sft", "ilql"]), default="improve",
    show_default=True, help="What learns from the rankings; improve is a reward model, then PPO.",
)  # fmt: skip
@click.option(
    "--preset", type=click.Choice(list(engine.presets.EFFORT)), default="balanced", show_default=True,
    help="How thorough a run is.",
)  # fmt: skip
@in_folder("Keep it all in this folder. [default: nothing is kept]")
def demo(folder, labels, prefer, seed, settings, errs, rounds, choose, method, preset, as_json: bool) -> None:
    """The whole loop without a browser, with a simulated annotator in place of a person."""
    # A closed terminal or a `kill` ends it as Ctrl-C does: with its run, and with the folder that nobody knows of.
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if number := getattr(signal, name, None):
            signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="rlhf-studio-demo-") as passing:
        space = engine.open_workspace(folder or passing)
        result = engine.run_demo(space, labels, prefer, seed, list(settings), say, choose, errs, rounds, method, preset)
    low, high = result["win_rate_low"], result["win_rate_high"]
    lines = [
        f"After beats before on {result['win_rate']:.0%} of held-out prompts (95% interval {low:.0%} to {high:.0%}).",
        f"KL {result['kl']:.1f} nats; {result['well_formed']:.0%} well-formed; "
        f"{result['distinct_after']} distinct answers, {result['distinct_before']} before.",
        f"Facts right: {result['right_before']:.0%} before, {result['right_after']:.0%} after "
        f"(95% interval of the change {result['right_change_low']:+.0%} to {result['right_change_high']:+.0%}).",
        f"Took {result['seconds']['total']:.0f} s.",
        "",
    ]
    if (accuracy := result["reward_accuracy"]) is not None:
        lines.insert(0, f"Reward model: {accuracy:.0%} of held-out pairs ordered as the annotator would.")
    for example in result["examples"][:4]:
        lines += [f"  {example['prompt']}", f"    before: {example['before']}", f"    after:  {example['after']}"]
    answer_with(result, as_json, "\n".join(lines))
