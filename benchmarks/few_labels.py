"""How many rankings until the model is visibly better: win rate over the number of labels.

    python benchmarks/few_labels.py [RESULTS] [--lanes 2] [--prefer warm] [--labels 12] [--seed 0] [--choose active]
                                    [--errs 0.2] [--plot docs/few_labels.svg]

RESULTS keeps one JSON line a run (what `rlhf-studio demo --json` prints, less its examples); runs that are in it are
not done again, so it can be stopped and gone on with. Each lane is a run of its own on one thread. At the end comes a
table of all that RESULTS holds: rows are tastes and ways of choosing what to ask, columns numbers of labels, cells the
mean win rate, the 95% interval of its pooled prompts and the number of seeds. With --lanes 0 nothing is run.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click
from trials import demo, read, run_all

from engine.evaluation.winrate import wilson
from engine.pocket.demo import COMPARED

RESULTS = Path(__file__).parent / "results" / "few_labels.jsonl"
PLAIN = ("warm", "terse", "rude")
COMPOUND = ("warm+correct", "terse+correct", "fitting")
WAYS = {"random": "#8a8f98", "telling": "#3457d5", "active": "#d58a34"}  # of choosing, and their colours in the plot
COUNTS = (6, 12, 25, 50, 100)


class Trial(NamedTuple):
    prefer: str
    labels: int
    seed: int
    choose: str
    errs: float


def run(trial: Trial, settings: tuple[str, ...]) -> dict:
    return {"choose": trial.choose, "errs": trial.errs, **demo(trial, settings)}


def pooled(results: Iterable[dict]) -> dict[tuple, dict[int, tuple[float, float, float, int]]]:
    """(mean win rate, low, high, seeds) by (prefer, choose, errs) and number of labels."""
    rates: dict[tuple, dict[int, list[float]]] = {}
    for r in results:
        rates.setdefault((r["prefer"], r["choose"], r["errs"]), {}).setdefault(r["labels"], []).append(r["win_rate"])
    return {
        row: {
            n: (sum(v) / len(v), *wilson(sum(v) * COMPARED, COMPARED * len(v)), len(v)) for n, v in sorted(by.items())
        }
        for row, by in sorted(rates.items())
    }


def table(results: list[dict]) -> list[str]:
    counts = sorted({r["labels"] for r in results})
    lines = ["| taste | asked | " + " | ".join(f"{n} rankings" for n in counts) + " |"]
    lines.append("|" + " --- |" * (2 + len(counts)))
    for (prefer, choose, errs), by in pooled(results).items():
        name = prefer + (f", errs in {errs:.0%} of pairs" if errs else "")
        cells = ["{:.2f} ({:.2f} to {:.2f}; {})".format(*by[n]) if n in by else "–" for n in counts]
        lines.append(f"| {name} | {choose} | " + " | ".join(cells) + " |")
    return lines


def plot(results: list[dict], file: Path) -> None:
    """Win rate over labels, a panel a taste, with the interval as a band."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    found = pooled(r for r in results if not r["errs"])
    tastes = [t for t in (*PLAIN, *COMPOUND) if any(prefer == t for prefer, _, _ in found)]
    figure, axes = pyplot.subplots(-(-len(tastes) // 3), min(3, len(tastes)), sharey=True, squeeze=False,
                                   figsize=(9, 2.8 * -(-len(tastes) // 3)))  # fmt: skip
    for place in axes.flat[len(tastes) :]:
        place.remove()
    for taste, place in zip(tastes, axes.flat, strict=False):
        for way, colour in WAYS.items():
            by = found.get((taste, way, 0.0), {})
            values = list(by.values())
            place.plot(list(by), [v[0] for v in values], "o-", color=colour, label=way, markersize=4)
            place.fill_between(list(by), [v[1] for v in values], [v[2] for v in values], color=colour, alpha=0.15)
        place.axhline(0.5, color="#cccccc", linewidth=0.8)
        place.set(title=taste, xscale="log", ylim=(0.4, 1.0))
        place.set_xticks(COUNTS, [str(n) for n in COUNTS])
        place.minorticks_off()
    axes[0, 0].legend(frameon=False, loc="lower right")
    figure.supxlabel("rankings of four answers")
    figure.supylabel("win rate over the start")
    figure.tight_layout()
    figure.savefig(file)


@click.command()
@click.argument("results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--prefer", multiple=True, default=(*PLAIN, *COMPOUND))
@click.option("--labels", multiple=True, type=int, default=COUNTS)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--choose", multiple=True, type=click.Choice(list(WAYS)), default=tuple(WAYS))
@click.option("--errs", default=0.0)
@click.option("--lanes", default=2, show_default=True)
@click.option("--set", "settings", multiple=True)
@click.option("--plot", "picture", type=click.Path(path_type=Path))
def main(results, prefer, labels, seeds, choose, errs, lanes, settings, picture) -> None:
    wanted = [Trial(taste, n, s, way, errs) for s, n, taste, way in product(seeds, labels, prefer, choose)]
    if lanes:
        run_all(wanted, lambda trial: run(trial, settings), results, lanes)
    click.echo("\n".join(table(read(results))))
    if picture:
        plot(read(results), picture)


if __name__ == "__main__":
    main()
