"""Runs: training jobs, their stages, metrics and samples."""

import json
import time

from engine.errors import UserError
from engine.store.db import Store, now

RESUMABLE = ("paused", "stopped", "failed")
ENDED = ("finished", *RESUMABLE)  # no process is at work


def add_run(store: Store, method: str, config: dict, parent_version_id: int) -> int:
    return store.insert(
        "runs", method=method, status="queued", config=config, parent_version_id=parent_version_id, created=now()
    )


def get_run(store: Store, run_id: int | str) -> dict:
    row = store.row("SELECT * FROM runs WHERE id = ?", int(run_id)) if str(run_id).isdigit() else None
    if row is None:
        raise UserError(f'There is no run "{run_id}". `rlhf-studio runs list` shows what there is.')
    return _parsed(row)


def list_runs(store: Store, status: str | None = None) -> list[dict]:
    rows = store.rows("SELECT * FROM runs ORDER BY id DESC")
    return [_parsed(r) for r in rows if status is None or r["status"] == status]


def stages_of(store: Store, run_id: int) -> list[dict]:
    return store.rows("SELECT name, started, ended FROM stages WHERE run_id = ? ORDER BY started", run_id)


def enter_stage(store: Store, run_id: int, name: str) -> None:
    """Note that a stage begins; the one before it has ended."""
    with store.writing() as connection:
        connection.execute("UPDATE stages SET ended = ? WHERE run_id = ? AND ended IS NULL", (time.time(), run_id))
        connection.execute(
            "INSERT INTO stages (run_id, name, started) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET ended = NULL",
            (run_id, name, time.time()),
        )


def leave_stages(store: Store, run_id: int) -> None:
    with store.writing() as connection:
        connection.execute("UPDATE stages SET ended = ? WHERE run_id = ? AND ended IS NULL", (time.time(), run_id))


def add_metrics(store: Store, run_id: int, stage: str, step: int, values: dict[str, float]) -> None:
    rows = [(run_id, stage, step, name, value) for name, value in values.items()]
    with store.writing() as connection:
        connection.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?)", rows)


def metrics_of(store: Store, run_id: int, most: int | None = None) -> list[dict]:
    """A run's metrics by stage and step; of each at most about `most`, evenly spread, the last among them."""
    sql = "SELECT stage, step, name, value FROM metrics WHERE run_id = ?"
    if most is None:
        return store.rows(sql + " ORDER BY stage, step", run_id)
    found = []
    for row in store.rows("SELECT stage, max(step) AS last FROM metrics WHERE run_id = ? GROUP BY stage", run_id):
        every = max(1, row["last"] // most)
        kept = sql + " AND stage = ? AND (step % ? = 0 OR step = ?) ORDER BY step"
        found += store.rows(kept, run_id, row["stage"], every, row["last"])
    return found


def samples_of(store: Store, run_id: int, limit: int = 6) -> list[dict]:
    """The newest samples of a run, newest first."""
    return store.rows("SELECT * FROM samples WHERE run_id = ? ORDER BY id DESC LIMIT ?", run_id, limit)


def record_feedback(store: Store, run_id: int, train: list[int], held_out: list[int]) -> None:
    """Note exactly which feedback a run used, and on which side of the split."""
    rows = [(run_id, i, "train") for i in train] + [(run_id, i, "held_out") for i in held_out]
    with store.writing() as connection:
        connection.executemany("INSERT OR REPLACE INTO run_feedback VALUES (?, ?, ?)", rows)


def _parsed(row: dict) -> dict:
    return {**row, "config": json.loads(row["config"]), "result": json.loads(row["result"])}
