"""Start, watch, stop and resume runs. Each is a process of its own that outlives the page and the studio."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from engine.errors import UserError
from engine.jobs.config import RunConfig, read_config
from engine.models.shape import blocks_of
from engine.sampling.settings import usual_sampling
from engine.store import feedback, models, runs
from engine.store.db import Store, now
from engine.workspace import Workspace

# What a run can do, each in a sentence for people.
METHODS = {
    "improve": "A reward model learns what you prefer, then PPO tunes the model against it.",
    "reward": "Only the reward model: how well can your taste be told from your feedback?",
    "ppo": "PPO against the newest reward model, or against a Python function.",
    "reinforce": "The policy gradient (RLOO, GRPO) against the newest reward model: simpler than PPO, no value head.",
    "sft": "The model copies your edits and the answers you liked best.",
    "dpo": "The model learns from your rankings directly, without a reward model.",
    "kto": "More of what you liked, less of what you did not; thumbs are enough.",
    "pretrain": "Next-word prediction on plain text: an adapter, all weights, or a new model with its own tokenizer.",
    "compare": "Two versions answer the same questions, for you to vote on.",
    "ilql": "Q-learning on the answers you judged; it never needs to answer anew while it learns.",
}
CHILD = "engine.jobs.child"
NEEDS_FEEDBACK = ("improve", "reward", "sft", "dpo", "kto", "ilql")


def start(workspace: Workspace, store: Store, method: str, config: dict, parent_version_id: int) -> int:
    """Queue a run and start its process; returns the run's id at once."""
    if method not in METHODS:
        raise UserError(f'There is no method "{method}". Choose one of {", ".join(METHODS)}.')
    parent = models.get_version(store, parent_version_id)
    run_id = runs.add_run(store, method, settled(store, read_config(config), parent).as_dict(), parent_version_id)
    _spawn(workspace, store, run_id)
    return run_id


def settled(store: Store, config: RunConfig, parent: dict) -> RunConfig:
    """`config` with what it leaves to the feedback that there is and to the version that it starts from."""
    usual = usual_sampling(parent["base"], feedback.longest_judged(store))
    return config.settled(feedback.compared(store), usual, blocks_of(Path(parent["base"])))


def resume(workspace: Workspace, store: Store, run_id: int) -> None:
    """Go on with a run that was paused or stopped or has failed, from its last checkpoint."""
    refresh(workspace, store)
    run = runs.get_run(store, run_id)
    if run["status"] not in runs.RESUMABLE:
        raise UserError(f"Run {run_id} is {run['status']}; only a paused, stopped or failed run can be resumed.")
    store.update("runs", run_id, status="queued", pid=None, stage="", done=0, total=0, asked="", reason="", ended=None)
    _spawn(workspace, store, run_id)


def _spawn(workspace: Workspace, store: Store, run_id: int) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (workspace.run(run_id) / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(workspace.folder), str(run_id)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    store.update("runs", run_id, pid=process.pid, heartbeat=now())


def stop(workspace: Workspace, store: Store, run_id: int) -> None:
    """Ask a run to stop. A version is made of what it has learned; one that only waited ends at once."""
    _ask(workspace, store, run_id, "stop")


def pause(workspace: Workspace, store: Store, run_id: int) -> None:
    """Ask a run to keep where it is and leave the machine to others, until it is resumed."""
    _ask(workspace, store, run_id, "pause")


def _ask(workspace: Workspace, store: Store, run_id: int, what: str) -> None:
    refresh(workspace, store)
    run = runs.get_run(store, run_id)
    if run["status"] == "paused":
        raise UserError(f"Run {run_id} is paused. Resume it first.")
    if run["status"] in runs.ENDED:
        raise UserError(f"Run {run_id} has already ended: it is {run['status']}.")
    store.update("runs", run_id, asked=what)


def end(store: Store, run_id: int, patience: float = 20.0) -> None:
    """Have a run's process stop at its next step, and wait for that; after `patience` seconds kill it."""
    run = runs.get_run(store, run_id)
    if not alive(run):
        return
    store.update("runs", run_id, asked="stop")
    process = psutil.Process(run["pid"])
    try:
        process.wait(patience)
    except psutil.TimeoutExpired:
        process.kill()


def alive(run: dict) -> bool:
    """Whether the run's own process lives. A process id that was handed on does not count: its command line tells.

    (When it began would not: that time moves whenever the machine's clock is set, as after a sleep.)
    """
    if run["pid"] is None:
        return False
    try:
        process = psutil.Process(run["pid"])
        command = process.cmdline()  # empty while a process is just beginning or ending
        own = not command or (CHILD in command and command[-1] == str(run["id"]))
        return own and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def refresh(workspace: Workspace, store: Store) -> None:
    """Mark runs whose process is gone as failed, with what their log says last."""
    for run in store.rows("SELECT * FROM runs WHERE status IN ('queued', 'running') AND pid IS NOT NULL"):
        if alive(run):
            continue
        again = store.row("SELECT status FROM runs WHERE id = ?", run["id"])
        if again and again["status"] in runs.ENDED:
            continue  # it ended by itself between the two looks
        lines = log_tail(workspace, run["id"], 1)
        reason = "The run's process ended without a word" + (f"; its log ends: {lines[0]}" if lines else ".")
        store.update("runs", run["id"], status="failed", reason=reason, ended=now())
        runs.leave_stages(store, run["id"])


def log_tail(workspace: Workspace, run_id: int, count: int = 50) -> list[str]:
    file = workspace.run(run_id) / "log.txt"
    if not file.is_file():
        return []
    return [line for line in file.read_text(errors="replace").splitlines() if line.strip()][-count:]


def summary(store: Store, run_id: int) -> dict:
    """A run as the command line reports it: {"run", "method", "status", "model", "seconds", "metrics"}."""
    run = runs.get_run(store, run_id)
    metrics: dict[str, float] = {}
    for row in runs.metrics_of(store, run_id):
        metrics[f"{row['stage']}/{row['name']}"] = row["value"]
    stages = runs.stages_of(store, run_id)
    return {
        "run": run_id,
        "method": run["method"],
        "status": run["status"],
        "model": run["model_version_id"],
        "seconds": {s["name"]: round(s["ended"] - s["started"], 1) for s in stages if s["ended"]},
        "metrics": metrics,
        "result": run["result"],
        "reason": run["reason"],
    }


def as_json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False)
