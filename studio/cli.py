"""The command ``rlhf-studio``. Progress goes to standard error; with --json the last line of output is one object."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import engine


class Friendly(click.Group):
    """A group whose mistakes end with one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except engine.UserError as error:
            click.echo(f"rlhf-studio: {error}", err=True)
            ctx.exit(2)


def say(text: str) -> None:
    click.echo(text, err=True)


def answer_with(value: dict, as_json: bool, text: str) -> None:
    click.echo(json.dumps(value, ensure_ascii=False) if as_json else text)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
workspace_option = click.option(
    "--workspace", type=click.Path(path_type=Path), help="The folder that holds everything. [default: your user data]"
)


def _open(folder: Path | None):
    workspace = engine.open_workspace(folder)
    return workspace, engine.Store(workspace.database)


def _version(store, base: str | None) -> dict:
    """The model version a command works on: one in the store, or a base that is added to it."""
    if base is None:
        found = engine.versions.newest_chat_version(store)
        if found:
            return found
        base = "pocket"
    try:
        return engine.versions.get_version(store, base)
    except engine.UserError:
        path = engine.find_base(base)
    name = "pocket" if base == "pocket" else path.name
    return engine.versions.get_version(
        store, engine.versions.ensure_base(store, str(path), engine.fingerprint(path), name)
    )


@click.group(cls=Friendly, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@workspace_option
@click.option("--port", default=7860, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
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


@main.command()
@click.option("--labels", default=50, show_default=True, help="How many rankings of 4 answers.")
@click.option("--prefer", default="warm", show_default=True, help="The taste, such as warm, terse or warm+correct.")
@click.option("--seed", default=0, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the run.")
@click.option("--errs", default=0.0, help="Share of the pairs that the annotator gets wrong while ranking.")
@click.option("--rounds", default=1, show_default=True, help="How often to rank and improve, each from the last.")
@click.option(
    "--choose", type=click.Choice(["random", "active"]), default="random", show_default=True,
    help="Rank random answers, or those that a reward model is least sure of.",
)  # fmt: skip
@workspace_option
@json_option
def demo(labels, prefer, seed, settings, errs, rounds, choose, workspace, as_json) -> None:
    """The whole loop without a browser, with a simulated annotator in place of a person."""
    with tempfile.TemporaryDirectory(prefix="rlhf-studio-demo-") as folder:
        space = engine.open_workspace(workspace or folder)
        result = engine.run_demo(space, labels, prefer, seed, list(settings), say, choose == "active", errs, rounds)
    low, high = result["win_rate_low"], result["win_rate_high"]
    lines = [
        f"Reward model: {result['reward_accuracy']:.0%} of held-out pairs ordered as the annotator would.",
        f"After beats before on {result['win_rate']:.0%} of held-out prompts (95% interval {low:.0%} to {high:.0%}).",
        f"KL {result['kl']:.1f} nats; {result['well_formed']:.0%} well-formed; "
        f"{result['distinct_after']} distinct answers, {result['distinct_before']} before.",
        f"Took {result['seconds']['total']:.0f} s.",
        "",
    ]
    for example in result["examples"][:4]:
        lines += [f"  {example['prompt']}", f"    before: {example['before']}", f"    after:  {example['after']}"]
    answer_with(result, as_json, "\n".join(lines))


@main.command()
@click.option("-p", "--prompt", required=True, help="What to ask.")
@click.option("-m", "--model", help="A model version, a folder, or a model in the local Hugging Face cache.")
@click.option("-k", "count", default=1, show_default=True, type=click.IntRange(1, 16), help="How many answers.")
@click.option("--seed", default=None, type=int, help="Makes the answers repeatable. [default: by the clock]")
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--max-new-tokens", default=96, show_default=True)
@workspace_option
@json_option
@click.pass_obj
def chat(group_workspace, prompt, model, count, seed, temperature, top_p, max_new_tokens, workspace, as_json) -> None:
    """Ask a model once and print its answers."""
    space, store = _open(workspace or group_workspace)
    version = _version(store, model)
    seed = time.time_ns() % 2**31 if seed is None else seed
    sampling = engine.Sampling(temperature, top_p, 0, max_new_tokens)
    client = engine.ServingClient(space.folder / "serving.log")
    try:
        events = client.generate(
            client.reserve(),
            base=version["base"],
            adapter=None if version["kind"] == "base" else str(space.model(version["id"])),
            messages=[{"role": "user", "content": prompt}],
            seeds=[seed + i for i in range(count)],
            sampling=sampling.as_dict(),
        )
        answers = list(events)[-1]["answers"]
    finally:
        client.close()
    answer_with({"model": version["name"], "responses": answers}, as_json, "\n".join(a["text"] for a in answers))


@main.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", default="auto", show_default=True, help="What the file holds; auto looks.")
@workspace_option
@json_option
@click.pass_obj
def import_(group_workspace, file: Path, form: str, workspace, as_json: bool) -> None:
    """Bring in prompts, demonstrations or preferences from FILE.

    \b
    text      a prompt a line               csv       prompts in a column "prompt"
    jsonl     {"prompt"}                    alpaca    {"instruction", "input", "output"}
    hh-rlhf   {"chosen", "rejected"}        sharegpt  {"conversations", "chosen", "rejected"}
    thumbs    {"messages", "label"}         trl       {"prompt", "chosen", "rejected"}
    """
    _, store = _open(workspace or group_workspace)
    result = engine.import_file(store, file, form)
    lines = [f"{result['imported']} imported as {result['format']}, {result['duplicates']} were there already."]
    if result["refused"]:
        lines.append(f"{result['refused']} could not be read:")
        lines += [f"  record {e['line']}: {e['reason']}" for e in result["errors"][:5]]
        lines += ["  ..."] if result["refused"] > 5 else []
    answer_with(result, as_json, "\n".join(lines))


@main.command(
    epilog="Methods:\n\n\b\n" + "\n".join(f"{name:<10} {what}" for name, what in engine.launcher.METHODS.items()),
)
@click.argument("method")
@click.option("--base", help="What to start from: a model version, a folder, or a cached model.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting, such as ppo.updates=20.")
@click.option(
    "--reward-function", metavar="FILE.PY:NAME",
    help="A Python function (prompt, response) -> float that scores answers, for ppo and reinforce.",
)  # fmt: skip
@click.option("--detach", is_flag=True, help="Return at once; `runs show` tells how it goes.")
@workspace_option
@json_option
@click.pass_obj
def train(
    group_workspace, method: str, base, settings, reward_function, detach: bool, workspace, as_json: bool
) -> None:
    """Train by METHOD and keep what comes out as a model version."""
    space, store = _open(workspace or group_workspace)
    if reward_function:
        if method not in ("ppo", "reinforce"):
            raise engine.UserError("--reward-function scores answers for the methods ppo and reinforce.")
        path, colon, name = reward_function.rpartition(":")
        if not colon or not Path(path).is_file():
            raise engine.UserError(f'There is no reward function "{reward_function}". Write it as file.py:name.')
        settings = [*settings, f"reward_function={Path(path).resolve()}:{name}"]
    config = engine.parse_settings(list(settings), method)
    if method in engine.launcher.NEEDS_FEEDBACK and not engine.feedback_log.counts(store)["prompts"]:
        raise engine.UserError(
            "There is no feedback in this workspace yet. Rank some answers on the page first, "
            "or try `rlhf-studio demo`."
        )
    run_id = engine.launcher.start(space, store, method, config, _version(store, base)["id"])
    if not detach:
        _follow(space, store, run_id)
    result = engine.launcher.summary(store, run_id)
    answer_with(result, as_json, f"run {run_id}: {result['status']} {result['reason']}".rstrip())
    if result["status"] == "failed":
        raise engine.UserError(f"run {run_id} failed: {result['reason']}")


def _follow(space, store, run_id: int) -> None:
    stage = ""
    while True:
        run = engine.runs.get_run(store, run_id)
        if run["stage"] != stage:
            stage = run["stage"]
            say(f"{stage} ...")
        if run["status"] in engine.runs.ENDED:
            return
        engine.launcher.refresh(space, store)
        time.sleep(0.3)


@main.group(name="runs")
def runs_group() -> None:
    """Look at runs, pause or stop them, go on with them."""


def _run_line(run: dict) -> str:
    return f"{run['id']:>4}  {run['method']:<8} {run['status']:<9} {run['created'][:16]}  {run['reason']}".rstrip()


@runs_group.command(name="list")
@workspace_option
@json_option
@click.pass_obj
def runs_list(group_workspace, workspace, as_json: bool) -> None:
    """All runs, newest first."""
    space, store = _open(workspace or group_workspace)
    engine.launcher.refresh(space, store)
    found = engine.runs.list_runs(store)
    answer_with({"runs": found}, as_json, "\n".join(map(_run_line, found)) or "No runs yet.")


@runs_group.command(name="show")
@click.argument("run")
@workspace_option
@json_option
@click.pass_obj
def runs_show(group_workspace, run: str, workspace, as_json: bool) -> None:
    """One run: its settings, stages and last metrics."""
    space, store = _open(workspace or group_workspace)
    engine.launcher.refresh(space, store)
    found = engine.runs.get_run(store, run)
    result = {**engine.launcher.summary(store, found["id"]), "config": found["config"]}
    text = "\n".join([_run_line(found), *(f"  {key} = {value:.4g}" for key, value in result["metrics"].items())])
    answer_with(result, as_json, text)


def _ask(act: Callable, folder: Path | None, run: str, as_json: bool, status: str, what: str) -> None:
    """Have `act` (workspace, store, run) done to a run, and say that and `what` it will do now."""
    space, store = _open(folder)
    number = engine.runs.get_run(store, run)["id"]
    act(space, store, number)
    answer_with({"run": number, "status": status}, as_json, f"run {number} {what}")


@runs_group.command(name="stop")
@click.argument("run")
@workspace_option
@json_option
@click.pass_obj
def runs_stop(group_workspace, run: str, workspace, as_json: bool) -> None:
    """Ask a run to stop; what it has learned becomes a version."""
    _ask(engine.launcher.stop, workspace or group_workspace, run, as_json, "stopping", "will stop at its next step.")


@runs_group.command(name="pause")
@click.argument("run")
@workspace_option
@json_option
@click.pass_obj
def runs_pause(group_workspace, run: str, workspace, as_json: bool) -> None:
    """Ask a run to pause; it goes on from there when it is resumed."""
    _ask(engine.launcher.pause, workspace or group_workspace, run, as_json, "pausing", "will pause at its next step.")


@runs_group.command(name="resume")
@click.argument("run")
@workspace_option
@json_option
@click.pass_obj
def runs_resume(group_workspace, run: str, workspace, as_json: bool) -> None:
    """Go on with a paused, stopped or failed run from its last checkpoint."""
    _ask(engine.launcher.resume, workspace or group_workspace, run, as_json, "queued", "goes on.")


@runs_group.command(name="log")
@click.argument("run")
@click.option("--lines", default=50, show_default=True)
@workspace_option
@json_option
@click.pass_obj
def runs_log(group_workspace, run: str, lines: int, workspace, as_json: bool) -> None:
    """The end of a run's log."""
    space, store = _open(workspace or group_workspace)
    found = engine.launcher.log_tail(space, engine.runs.get_run(store, run)["id"], lines)
    answer_with({"run": int(run), "log": found}, as_json, "\n".join(found))


@main.command()
@click.argument("before")
@click.argument("after")
@click.option("--prompts", default="everyday-test", show_default=True, help="A prompt set or a text file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE")
@workspace_option
@json_option
@click.pass_obj
def compare(group_workspace, before: str, after: str, prompts: str, settings, workspace, as_json: bool) -> None:
    """Answer the same prompts with two model versions, BEFORE and AFTER, and say which is better."""
    space, store = _open(workspace or group_workspace)
    config = engine.read_config(engine.parse_settings(list(settings), "compare"))
    texts = engine.load_prompts(prompts)[: config.compare.prompts]
    sides = [_version(store, name) for name in (before, after)]
    result = engine.compare_versions(space, store, *sides, texts, config)
    text = f"{result['prompts']} prompts, KL {result['kl']:.2f} nats."
    if "win_rate" in result:
        low, high = result["win_rate_low"], result["win_rate_high"]
        text += f" By the reward model, after wins {result['win_rate']:.0%} ({low:.0%} to {high:.0%})."
    answer_with(result, as_json, text)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", default="preference", show_default=True, help="What to write.")
@workspace_option
@json_option
@click.pass_obj
def export(group_workspace, file: Path, form: str, workspace, as_json: bool) -> None:
    """Write the feedback to FILE as JSON lines.

    \b
    preference  {"prompt", "chosen", "rejected"}, a line a pair
    thumbs      {"messages", "label"}, a line a judged answer
    studio      everything, a line a prompt
    """
    _, store = _open(workspace or group_workspace)
    count = engine.export_file(store, file, form)
    answer_with({"format": form, "lines": count, "file": str(file)}, as_json, f"{count} lines written to {file}.")


@main.group(name="models")
def models_group() -> None:
    """Model versions: bases and what was trained on them."""


@models_group.command(name="list")
@workspace_option
@json_option
@click.pass_obj
def models_list(group_workspace, workspace, as_json: bool) -> None:
    """All model versions."""
    _, store = _open(workspace or group_workspace)
    found = engine.versions.list_versions(store)
    lines = [f"{v['id']:>4}  {v['name']:<16} {v['kind']:<7} {v['created'][:16]}" for v in found]
    answer_with({"models": found}, as_json, "\n".join(lines) or "No model versions yet.")


@models_group.command(name="show")
@click.argument("model")
@workspace_option
@json_option
@click.pass_obj
def models_show(group_workspace, model: str, workspace, as_json: bool) -> None:
    """One model version: where it comes from and what is known of it."""
    space, store = _open(workspace or group_workspace)
    version = engine.versions.get_version(store, model)
    found = next(v for v in engine.shelf.tree(store, space) if v["id"] == version["id"])
    lines = [f"{key:<18} {value}" for key, value in found.items() if value not in (None, "", {}, 0)]
    answer_with(found, as_json, "\n".join(lines))


@models_group.command(name="add")
@click.argument("model")
@workspace_option
@json_option
@click.pass_obj
def models_add(group_workspace, model: str, workspace, as_json: bool) -> None:
    """Add a base of this machine: a folder, or a model in the local Hugging Face cache."""
    _, store = _open(workspace or group_workspace)
    version = engine.versions.get_version(store, engine.shelf.add_base(store, model))
    answer_with(version, as_json, f"Added {version['name']} as version {version['id']}.")


@models_group.command(name="promote")
@click.argument("model")
@workspace_option
@json_option
@click.pass_obj
def models_promote(group_workspace, model: str, workspace, as_json: bool) -> None:
    """Make a version the one that chat answers with and the next run starts from."""
    _, store = _open(workspace or group_workspace)
    version = engine.shelf.promote(store, engine.versions.get_version(store, model)["id"])
    answer_with(version, as_json, f"{version['name']} is in use now.")


@models_group.command(name="export")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@workspace_option
@json_option
@click.pass_obj
def models_export(group_workspace, model: str, file: Path | None, workspace, as_json: bool) -> None:
    """Write a version to a zip FILE: an adapter in PEFT's layout, or a base as it is."""
    space, store = _open(workspace or group_workspace)
    made = engine.shelf.export(store, space, engine.versions.get_version(store, model)["id"], file)
    answer_with({"file": str(made)}, as_json, f"Written to {made}.")


@models_group.command(name="delete")
@click.argument("model")
@workspace_option
@json_option
@click.pass_obj
def models_delete(group_workspace, model: str, workspace, as_json: bool) -> None:
    """Move a version to the workspace's trash folder."""
    space, store = _open(workspace or group_workspace)
    version = engine.shelf.delete(store, space, engine.versions.get_version(store, model)["id"])
    answer_with(version, as_json, f"{version['name']} lies in {space.folder / 'trash'} now.")


@main.command()
@workspace_option
@json_option
@click.pass_obj
def doctor(group_workspace, workspace, as_json: bool) -> None:
    """What this machine has, what fits on it, what is missing."""
    found = engine.diagnose(engine.open_workspace(workspace or group_workspace))
    tried = found.get("tried", {"seconds": {}})
    times = ", ".join(f"{precision} {1000 * s:.0f} ms" for precision, s in tried["seconds"].items())
    lines = [
        f"Device     {found['device']} ({found['cores']} cores)",
        f"Memory     {found['memory']['free']} of {found['memory']['total']} GiB free",
        f"Precision  {found['precision_small']} for small models",
        *([f"           {found['precision']} for those like {tried['model']} (a block: {times})"] if times else []),
        *(f"Fits       {one['model']} in {one['precision']}, from {one['gigabytes']} GB" for one in found["fits"]),
        f"Workspace  {found['workspace']} ({found['disk_free']} GiB free)",
        *(f"Problem    {problem}" for problem in found["problems"]),
    ]
    answer_with(found, as_json, "\n".join(lines if found["problems"] else [*lines, "No problems found."]))


if __name__ == "__main__":
    sys.exit(main())
