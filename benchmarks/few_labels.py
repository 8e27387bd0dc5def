"""How many rankings until the model is visibly better: win rate over the number of labels.

    python benchmarks/few_labels.py [--prefer warm] [--labels 12] [--seed 0] [--choose active] [--errs 0.2]

One JSON line a run of the demo (less its examples), then a table: rows are tastes and ways of choosing what to ask,
columns numbers of labels, cells the mean win rate over the seeds with the 95% interval of their pooled prompts.
"""

import json
import subprocess
import sys

import click

from engine.evaluation.winrate import wilson
from engine.pocket.demo import COMPARED

TASTES = ("warm", "terse", "rude", "warm+correct", "terse+correct", "fitting")


def run(prefer: str, labels: int, seed: int, choose: str, errs: float, settings: tuple[str, ...]) -> dict:
    command = [sys.executable, "-m", "studio.cli", "demo", "--prefer", prefer, "--seed", str(seed), "--json"]
    command += ["--labels", str(labels), "--errs", str(errs), *(["--active"] if choose == "active" else [])]
    command += [part for s in settings for part in ("--set", s)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    result.pop("examples")
    return {"choose": choose, "errs": errs, **result}


def table(results: list[dict], labels: tuple[int, ...]) -> list[str]:
    lines = ["| taste | asked | " + " | ".join(f"{n} rankings" for n in labels) + " |"]
    lines.append("|" + " --- |" * (2 + len(labels)))
    rows = dict.fromkeys((r["prefer"], r["choose"], r["errs"]) for r in results)
    for prefer, choose, errs in rows:
        cells = []
        for n in labels:
            rates = [
                r["win_rate"] for r in results
                if (r["prefer"], r["choose"], r["errs"], r["labels"]) == (prefer, choose, errs, n)
            ]  # fmt: skip
            count = COMPARED * len(rates)
            low, high = wilson(sum(rates) * COMPARED, count)
            cells.append(f"{sum(rates) / len(rates):.2f} ({low:.2f} to {high:.2f})" if rates else "–")
        name = prefer + (f", errs in {errs:.0%} of pairs" if errs else "")
        lines.append(f"| {name} | {choose} | " + " | ".join(cells) + " |")
    return lines


@click.command()
@click.option("--prefer", multiple=True, default=TASTES)
@click.option("--labels", multiple=True, type=int, default=(6, 12, 25, 50, 100))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--choose", multiple=True, type=click.Choice(["random", "active"]), default=("random", "active"))
@click.option("--errs", default=0.0)
@click.option("--set", "settings", multiple=True)
def main(prefer, labels, seeds, choose, errs, settings) -> None:
    results = []
    for taste in prefer:
        for way in choose:
            for count in labels:
                for seed in seeds:
                    results.append(run(taste, count, seed, way, errs, settings))
                    click.echo(json.dumps(results[-1]))
    click.echo("\n" + "\n".join(table(results, labels)))


if __name__ == "__main__":
    main()
