"""`rlhf-studio chat`: ask once, from the command line."""

import time
from dataclasses import replace

import click

import engine
from studio.commands.common import answer_with, in_workspace, version_of


@click.command()
@click.option("-p", "--prompt", required=True, help="What to ask.")
@click.option("-m", "--model", help="A model version, a folder, or a model in the local Hugging Face cache.")
@click.option("-k", "count", default=1, show_default=True, type=click.IntRange(1, 16), help="How many answers.")
@click.option("--seed", default=None, type=int, help="Makes the answers repeatable. [default: by the clock]")
@click.option("--temperature", type=float, help="[default: the model's own, else 0.7; 1 of the built-in model]")
@click.option("--top-p", type=float, help="[default: the model's own, else 1]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="[default: 96 of the built-in model, 256 of others]")
@in_workspace
def chat(space, store, prompt, model, count, seed, temperature, top_p, max_new_tokens, as_json: bool) -> None:
    """Ask a model once and print its answers."""
    if not prompt.strip():
        raise engine.UserError("There is no question. Write one first.")
    version = version_of(store, model)
    seed = time.time_ns() % 2**31 if seed is None else seed
    said = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    usual = engine.usual_sampling(version["base"])
    sampling = replace(usual, **{name: value for name, value in said.items() if value is not None})
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
    texts = [a["text"] for a in answers]
    shown = texts[0] if count == 1 else "\n\n".join(f"[{i}] {text}" for i, text in enumerate(texts, 1))
    answer_with({"model": version["name"], "responses": answers}, as_json, shown)
