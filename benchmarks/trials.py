"""What the benchmarks of whole loops share: demos side by side, each on one thread, their results kept a line each."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click

Trial = Any  # a named tuple whose fields are options of the demo, and named so in its result


def demo(trial: Trial, settings: Iterable[str] = ()) -> dict:
    """What `rlhf-studio demo --json` prints with the trial's fields as its options, less its examples."""
    command = [sys.executable, "-m", "studio.cli", "demo", "--json"]
    command += [part for name, value in trial._asdict().items() for part in (f"--{name}", str(value))]
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
    """Run those of `trials` that `file` has no result of, `lanes` at a time; each is a line more there, and told."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = read(file)
    left = [t for t in trials if not any(t._asdict().items() <= result.items() for result in done)]
    with ThreadPoolExecutor(lanes) as pool, file.open("a") as kept:
        for finished in as_completed([pool.submit(run, trial) for trial in left]):
            line = json.dumps(finished.result())
            kept.write(line + "\n")
            kept.flush()
            click.echo(line, err=True)
