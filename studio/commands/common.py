"""What all commands share: how they answer, and the workspace that they work in."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

import engine


def say(text: str) -> None:
    """Progress, to standard error."""
    click.echo(text, err=True)


def answer_with(value: dict, as_json: bool, text: str) -> None:
    """What a command found, to standard output: an object on one line, or the same in words."""
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else text)


EVERYTHING = "The folder that holds everything. [default: your user data]"
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def workspace_option(what: str = EVERYTHING) -> Callable:
    return click.option("--workspace", type=click.Path(path_type=Path), help=what)


def in_folder(what: str = EVERYTHING) -> Callable:
    """Gives a command (the folder that --workspace names before or after its name, or None; as_json, ...)."""

    def given(command: Callable) -> Callable:
        @workspace_option(what)
        @json_option
        @click.pass_obj
        @wraps(command)
        def placed(named_before: Path | None, workspace: Path | None, **options: Any) -> None:
            command(workspace or named_before, **options)

        return placed

    return given


def in_workspace(command: Callable) -> Callable:
    """Gives `command` (workspace, store; as_json, ...), opened where `in_folder` says."""

    @in_folder()
    @wraps(command)
    def opened(folder: Path | None, **options: Any) -> None:
        space = engine.open_workspace(folder)
        command(space, engine.Store(space.database), **options)

    return opened


def version_of(store, name: str | None) -> dict:
    """The model version a command works on: one in the store, or a base that is added to it."""
    engine.shelf.settle_built_in(store)
    if name is None:
        return engine.versions.newest_chat_version(store)
    try:
        return engine.versions.get_version(store, name)
    except engine.UserError:
        return engine.versions.get_version(store, engine.shelf.add_base(store, name))
