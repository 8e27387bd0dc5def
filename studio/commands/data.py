"""`rlhf-studio import` and `export`: feedback from files and to them."""

from pathlib import Path

import click

import engine
from studio.commands.common import answer_with, in_workspace


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", default="auto", show_default=True, help="What the file holds; auto looks.")
@in_workspace
def import_(space, store, file: Path, form: str, as_json: bool) -> None:
    """Bring in prompts, demonstrations or preferences from FILE.

    \b
    text      a prompt a line               csv       prompts in a column "prompt"
    jsonl     {"prompt"}                    alpaca    {"instruction", "input", "output"}
    hh-rlhf   {"chosen", "rejected"}        sharegpt  {"conversations", "chosen", "rejected"}
    thumbs    {"messages", "label"}         trl       {"prompt", "chosen", "rejected"}
    """
    result = engine.import_file(store, file, form)
    lines = [f"{result['imported']} imported as {result['format']}, {result['duplicates']} were there already."]
    if result["refused"]:
        lines.append(f"{result['refused']} could not be read:")
        lines += [f"  record {e['line']}: {e['reason']}" for e in result["errors"][:5]]
        lines += ["  ..."] if result["refused"] > 5 else []
    answer_with(result, as_json, "\n".join(lines))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", default="preference", show_default=True, help="What to write.")
@in_workspace
def export(space, store, file: Path, form: str, as_json: bool) -> None:
    """Write the feedback to FILE as JSON lines.

    \b
    preference  {"prompt", "chosen", "rejected"}, a line a pair
    thumbs      {"messages", "label"}, a line a judged answer
    studio      everything, a line a prompt
    """
    count = engine.export_file(store, file, form)
    lines = "1 line" if count == 1 else f"{count} lines"
    answer_with({"format": form, "lines": count, "file": str(file)}, as_json, f"{lines} written to {file}.")
