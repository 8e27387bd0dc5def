"""`rlhf-studio chat`: ask once, from the command line."""

import time

import click

import engine
from studio.commands.common import answer_with, in_workspace, version_of


@click.command()
@click.option("-p", "--prompt", required=True, help="What to ask.")
@click.option("-m", "--model", help="A model version, a folder, or a model in the local Hugging Face cache.")
@click.option("-k", "count", default=1, show_default=True, type=click.IntRange(1, 16), help="How many answers.")
@click.option("--seed", default=None, type=int, help="Makes the answers repeatable. [default: by the clock]")
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), help="[default: 96 of the built-in model, 256 of others]")
@in_workspace
def chat(space, store, prompt, model, count, seed, temperature, top_p, max_new_tokens, as_json: bool) -> None:
    """Ask a model once and print its answers."""
    if not prompt.strip():
        raise engine.UserError("There is no question. Write one first.")
    version = version_of(store, model)
    seed = time.time_ns() % 2**31 if seed is None else seed
    longest = max_new_tokens or engine.usual_sampling(version["base"]).max_new_tokens
    sampling = engine.Sampling(temperature, top_p, 0, longest)
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
