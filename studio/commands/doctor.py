"""`rlhf-studio doctor`: what this machine can do."""

import click

import engine
from studio.commands.common import answer_with, in_folder


@click.command()
@in_folder()
def doctor(folder, as_json: bool) -> None:
    """What this machine has, what fits on it, what is missing."""
    found = engine.diagnose(engine.open_workspace(folder))
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
