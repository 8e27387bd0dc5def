"""Every CPU benchmark with a target of speed or memory, and one table: `make bench`. Up to twenty minutes.

The loop's own figures (win rates) come from benchmarks/demo.py and few_labels.py, which take hours.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import click

HERE = Path(__file__).parent
RUNS = (
    ("rollout_speed.py",),
    ("ppo_vs_trl.py", "--updates", "8", "--seeds", "3"),
    ("ppo_vs_trl.py", "--length", "fixed", "--updates", "2", "--seeds", "2"),
    ("reward_speed.py", "--seeds", "2"),
    ("ppo_cost.py",),
    ("estimate.py",),
)


@click.command()
def main() -> None:
    rows = []
    for script, *options in RUNS:
        started = time.monotonic()
        command = [sys.executable, str(HERE / script), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        click.echo(f"{script} {' '.join(options)}: {time.monotonic() - started:.0f} s", err=True)
        if done.returncode:
            sys.exit(f"{script} failed")
        for text in done.stdout.splitlines():
            click.echo(text)
            if text.startswith("{") and "target" in (row := json.loads(text)):
                rows.append(row)
    click.echo("\n| work | ours | theirs | ratio | target | held |\n|" + " --- |" * 6)
    for row in rows:
        cells = [row["work"], f"{row['ours']:.4g}", f"{row['theirs']:.4g}", f"{row['ratio']:.2f}", row["target"]]
        click.echo("| " + " | ".join([*cells, {True: "yes", False: "no", None: "–"}[row["held"]]]) + " |")


if __name__ == "__main__":
    main()
