"""`rlhf-studio runs`: what runs there are, and what to do with one."""

from collections.abc import Callable

import click

import engine
from studio.commands.common import answer_with, in_workspace
from studio.commands.following import outcome


@click.group(name="runs")
def runs_group() -> None:
    """Look at runs, pause or stop them, go on with them."""


def _run_line(run: dict) -> str:
    return f"{run['id']:>4}  {run['method']:<8} {run['status']:<9} {run['created'][:16]}  {run['reason']}".rstrip()


@runs_group.command(name="list")
@in_workspace
def runs_list(space, store, as_json: bool) -> None:
    """All runs, newest first."""
    engine.launcher.refresh(space, store)
    found = engine.runs.list_runs(store)
    answer_with({"runs": found}, as_json, "\n".join(map(_run_line, found)) or "No runs yet.")


@runs_group.command(name="show")
@click.argument("run")
@in_workspace
def runs_show(space, store, run: str, as_json: bool) -> None:
    """One run: what it made and its last metrics."""
    engine.launcher.refresh(space, store)
    found = engine.runs.get_run(store, run)
    result = {**engine.launcher.summary(store, found["id"]), "config": found["config"]}
    figures = [f"  {key} = {value:.4g}" for key, value in result["metrics"].items()]
    answer_with(result, as_json, "\n".join([_run_line(found), *outcome(store, found["id"]), *figures]))


def _ask(act: Callable, space, store, run: str, as_json: bool, status: str, what: str) -> None:
    """Have `act` done to a run, and say that and `what` it will do now."""
    number = engine.runs.get_run(store, run)["id"]
    act(space, store, number)
    answer_with({"run": number, "status": status}, as_json, f"run {number} {what}")


@runs_group.command(name="stop")
@click.argument("run")
@in_workspace
def runs_stop(space, store, run: str, as_json: bool) -> None:
    """Ask a run to stop; what it has learned becomes a version."""
    _ask(engine.launcher.stop, space, store, run, as_json, "stopping", "will stop at its next step.")


@runs_group.command(name="pause")
@click.argument("run")
@in_workspace
def runs_pause(space, store, run: str, as_json: bool) -> None:
    """Ask a run to pause; it goes on from there when it is resumed."""
    _ask(engine.launcher.pause, space, store, run, as_json, "pausing", "will pause at its next step.")


@runs_group.command(name="resume")
@click.argument("run")
@in_workspace
def runs_resume(space, store, run: str, as_json: bool) -> None:
    """Go on with a paused, stopped or failed run from its last checkpoint."""
    _ask(engine.launcher.resume, space, store, run, as_json, "queued", "goes on.")


@runs_group.command(name="log")
@click.argument("run")
@click.option("--lines", default=50, show_default=True)
@in_workspace
def runs_log(space, store, run: str, lines: int, as_json: bool) -> None:
    """The end of a run's log."""
    found = engine.launcher.log_tail(space, engine.runs.get_run(store, run)["id"], lines)
    answer_with({"run": int(run), "log": found}, as_json, "\n".join(found))
