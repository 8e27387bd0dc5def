"""What the benchmarks of whole loops share: demos side by side, each on one thread, their results kept a line each."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import click

Trial = TypeVar("Trial")


def demo(*options: object, settings: Iterable[str] = ()) -> dict:
    """What `rlhf-studio demo --json` prints with these options, less its examples."""
    command = [sys.executable, "-m", "studio.cli", "demo", "--json", *map(str, options)]
    command += [part for s in ("threads=1", *settings) for part in ("--set", s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    result.pop("examples")
    return result


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def run_all(trials: Iterable[Trial], run: Callable[[Trial], dict], file: Path, lanes: int) -> None:
    """Run the trials, `lanes` at a time; each result is a line more in `file`, and told as it comes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(lanes) as pool, file.open("a") as kept:
        for finished in as_completed([pool.submit(run, trial) for trial in trials]):
            line = json.dumps(finished.result())
            kept.write(line + "\n")
            kept.flush()
            click.echo(line, err=True)
