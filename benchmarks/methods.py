"""What each method makes of the same rankings, by the annotator's true taste.

    python benchmarks/methods.py [RESULTS] [--lanes 2] [--method dpo] [--preset quick] [--prefer warm]
                                 [--labels 50] [--seed 0] [--set dpo.beta=0.05]

RESULTS keeps one JSON line a run (what `rlhf-studio demo --method M --json` prints, less its examples); runs that are
in it are not done again, but for other settings RESULTS has to be another file. Each lane is a run of its own on one
thread. At the end comes a table of all that RESULTS holds. With --lanes 0 nothing is run.
"""

from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

import click
from trials import demo, read, run_all

from engine.evaluation.winrate import wilson
from engine.jobs.presets import EFFORT
from engine.pocket.demo import COMPARED, RUNS

RESULTS = Path(__file__).parent / "results" / "methods.jsonl"
TASTES = ("warm", "terse", "rude", "warm+correct")


class Trial(NamedTuple):
    method: str
    preset: str
    prefer: str
    labels: int
    seed: int


def table(results: list[dict]) -> list[str]:
    """Means over seeds; the interval is that of their pooled prompts, the time that of all training."""
    lines = [
        "| rankings | taste | method | win rate | KL | well-formed | facts right | seconds |",
        "|" + " --- |" * 8,
    ]

    def row(result: dict) -> tuple:
        return result["labels"], result["prefer"], list(RUNS).index(result["method"]), result["preset"]

    for (labels, prefer, *_), found in groupby(sorted(results, key=row), row):
        runs = list(found)

        def mean(name: str, runs: list[dict] = runs) -> float:
            return sum(r[name] for r in runs) / len(runs)

        rate = mean("win_rate")
        low, high = wilson(rate * COMPARED * len(runs), COMPARED * len(runs))
        seconds = sum(r["seconds"][s] for r in runs for s in r["seconds"] if s not in ("label", "compare", "total"))
        method = runs[0]["method"] if runs[0]["preset"] == "balanced" else f"{runs[0]['method']}, {runs[0]['preset']}"
        cells = [labels, prefer, method, f"{rate:.2f} ({low:.2f} to {high:.2f}; {len(runs)})"]
        cells += [f"{mean('kl'):.1f}", f"{mean('well_formed'):.2f}"]
        cells += [f"{mean('right_before'):.2f} → {mean('right_after'):.2f}", f"{seconds / len(runs):.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


@click.command()
@click.argument("results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(RUNS)), default=tuple(RUNS))
@click.option("--preset", type=click.Choice(list(EFFORT)), default="balanced")
@click.option("--prefer", multiple=True, default=TASTES)
@click.option("--labels", multiple=True, type=int, default=(50,))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--lanes", default=2, show_default=True)
@click.option("--set", "settings", multiple=True)
def main(results, methods, preset, prefer, labels, seeds, lanes, settings) -> None:
    wanted = [Trial(method, preset, taste, n, s) for s, n, taste, method in product(seeds, labels, prefer, methods)]
    if lanes:
        run_all(wanted, lambda trial: demo(trial, settings), results, lanes)
    click.echo("\n".join(table(read(results))))


if __name__ == "__main__":
    main()
