"""`rlhf-studio settings`: what can be set."""

import click

import engine
from studio.commands.common import answer_with, json_option


@click.command()
@click.argument("stage", required=False)
@json_option
def settings(stage: str | None, as_json: bool) -> None:
    """All that --set can change, or the settings of one STAGE, such as ppo: name, default, meaning.

    Beside these, seed=N sets the seed of every stage at once.
    """
    stages = ["", *engine.STAGES, "compare"]
    if stage and stage not in stages:
        raise engine.UserError(f'There is no stage "{stage}". Choose one of {", ".join(stages[1:])}.')
    found = [one for name in ([stage] if stage else stages) for one in engine.described_settings(name)]
    wide = max(len(one["name"]) for one in found)
    lines = [f"{one['name']:<{wide}}  {_default(one):<14}  {one['meaning']}" for one in found]
    answer_with({"settings": found}, as_json, "\n".join(lines))


def _default(setting: dict) -> str:
    value = setting["default"]
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value in (None, "") else str(value)
