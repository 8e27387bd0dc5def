"""`rlhf-studio compare`: two model versions on the same prompts."""

import click

import engine
from studio.commands.common import answer_with, in_workspace, version_of
from studio.commands.following import compared


@click.command()
@click.argument("before")
@click.argument("after")
@click.option(
    "--prompts", help="A prompt set or a text file. [default: your own questions kept for this, then everyday-test]"
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE")
@in_workspace
def compare(space, store, before: str, after: str, prompts: str | None, settings, as_json: bool) -> None:
    """Answer the same prompts with two model versions, BEFORE and AFTER, and say which is better."""
    config = engine.read_config(engine.parse_settings(list(settings), "compare"))
    texts = engine.load_prompts(prompts)[: config.compare.prompts] if prompts else None
    sides = [version_of(store, name) for name in (before, after)]
    config = engine.launcher.settled(store, config, sides[1])
    result = engine.compare_versions(space, store, *sides, texts, config)
    answer_with(result, as_json, compared(result))
