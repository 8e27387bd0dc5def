"""The whole loop over tastes and seeds: does feedback make the pocket model better, and at what cost?

    python benchmarks/demo.py [--prefer warm] [--seed 0] [--set precision=nf4]

One JSON line a run (what `rlhf-studio demo --json` prints, less the examples), then a table for docs/benchmarks.md.
Exit code 1 where a run misses a bound.
"""

import json
import subprocess
import sys

import click

TASTES = ("warm", "terse", "rude", "warm+correct")


def bounds(result: dict) -> dict[str, bool]:
    """What a run must reach; a taste that asks for what is true asks more of 50 rankings."""
    rate, low = (0.80, 0.72) if "correct" in result["prefer"] else (0.90, 0.82)
    return {
        "reward accuracy": result["reward_accuracy"] >= 0.90,
        "win rate": result["win_rate"] >= rate,
        "its lower end": result["win_rate_low"] > low,
        "well-formed": result["well_formed"] >= 0.90,
        "distinct": result["distinct_after"] >= 0.75 * result["distinct_before"],
        "facts right": result["right_after"] >= result["right_before"],
    }


def row(result: dict) -> str:
    missed = [name for name, met in bounds(result).items() if not met]
    cells = [
        result["prefer"],
        result["seed"],
        f"{result['reward_accuracy']:.2f}",
        f"{result['win_rate']:.2f} ({result['win_rate_low']:.2f} to {result['win_rate_high']:.2f})",
        f"{result['kl']:.1f}",
        f"{result['well_formed_before']:.2f} → {result['well_formed']:.2f}",
        f"{result['distinct_before']} → {result['distinct_after']}",
        f"{result['right_before']:.2f} → {result['right_after']:.2f}"
        f" ({result['right_change_low']:+.2f} to {result['right_change_high']:+.2f})",
        f"{result['seconds']['total']:.0f}",
        ", ".join(missed) or "–",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


@click.command()
@click.option("--prefer", multiple=True, default=TASTES, help="A taste; may be given several times.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2))
@click.option("--labels", default=50, show_default=True)
@click.option("--set", "settings", multiple=True)
def main(prefer: tuple[str, ...], seeds: tuple[int, ...], labels: int, settings: tuple[str, ...]) -> None:
    results = []
    for taste in prefer:
        for seed in seeds:
            command = [sys.executable, "-m", "studio.cli", "demo", "--prefer", taste, "--seed", str(seed), "--json"]
            command += ["--labels", str(labels), *(part for s in settings for part in ("--set", s))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            result.pop("examples")
            results.append(result)
            click.echo(json.dumps(result))
    click.echo(
        "\n| taste | seed | reward accuracy | win rate (95%) | KL | well-formed | distinct of 160 | facts right "
        "| seconds | missed |\n|" + " --- |" * 10
    )
    for result in results:
        click.echo(row(result))
    sys.exit(0 if all(all(bounds(r).values()) for r in results) else 1)


if __name__ == "__main__":
    main()
