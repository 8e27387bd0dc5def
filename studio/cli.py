"""The command `rlhf-studio`. Progress goes to standard error; with --json the last line of output is one object."""

import sys
from pathlib import Path
from typing import Any

import click

import engine
from studio.commands.chat import chat
from studio.commands.common import workspace_option
from studio.commands.compare import compare
from studio.commands.data import export, import_
from studio.commands.demo import demo
from studio.commands.doctor import doctor
from studio.commands.models import models_group
from studio.commands.runs import runs_group
from studio.commands.settings import settings
from studio.commands.train import train


class Friendly(click.Group):
    """A group whose mistakes end with one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except engine.UserError as error:
            click.echo(f"rlhf-studio: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Friendly, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@workspace_option()
@click.option(
    "--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 takes any that is free."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 for all that this machine has.",
)
@click.option("--no-browser", is_flag=True, help="Do not open the page by itself.")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="The page's language; default the browser's.")
@click.version_option(package_name="rlhf-studio")
@click.pass_context
def main(ctx: click.Context, workspace: Path | None, port: int, host: str, no_browser: bool, lang: str | None) -> None:
    """Teach a language model by feedback, on your own machine. Without a command, opens the studio's page."""
    ctx.obj = workspace
    if ctx.invoked_subcommand is None:
        from studio.app import serve

        serve(engine.open_workspace(workspace), host, port, not no_browser, lang or "")


for command in (demo, chat, import_, train, settings, runs_group, compare, export, models_group, doctor):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
