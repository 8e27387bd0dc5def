"""A run's own process: ``python -m engine.jobs.child WORKSPACE RUN``.

Waits its turn for the device, does what the run's row says, and writes all it has to say into the store.
"""

import math
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import UserError, disk_is_full
from engine.machine import keep_freed_memory
from engine.store import runs
from engine.store.db import Store, now
from engine.training.context import Paused, Stopped
from engine.workspace import Workspace

PATIENCE = 7 * 86400.0  # seconds that a run waits where another program keeps it from writing, rather than be lost


class StoreContext:
    """A run's context (`engine.training.context.Context`) that writes to the store."""

    watched = True

    def __init__(self, store: Store, run_id: int):
        self.store = store
        self.run_id = run_id
        self.current = ""

    def stage(self, name: str, done: int, total: int) -> None:
        if name != self.current:
            runs.enter_stage(self.store, self.run_id, name)
            print(f"{now()} {name}", flush=True)
            self.current = name
        self.store.update("runs", self.run_id, stage=name, done=done, total=total, heartbeat=now())
        _obey(self.store, self.run_id)

    def metrics(self, name: str, step: int, values: dict[str, float]) -> None:
        # A float16 step that overflowed, and was left out, has no norm.
        values = {key: value for key, value in values.items() if math.isfinite(value)}
        runs.add_metrics(self.store, self.run_id, name, step, values)
        print(f"{now()} {name} {step} " + " ".join(f"{k}={v:.4g}" for k, v in values.items()), flush=True)

    def sample(self, step: int, prompt: str, text: str, reward: float) -> None:
        self.store.insert("samples", run_id=self.run_id, step=step, prompt=prompt, text=text, reward=reward)


def _obey(store: Store, run_id: int) -> None:
    """Raise what the run was asked for, if anything."""
    row = store.row("SELECT asked FROM runs WHERE id = ?", run_id)
    if row and row["asked"]:
        raise Paused if row["asked"] == "pause" else Stopped


def _turn(workspace: Workspace, store: Store, run_id: int) -> FileLock:
    """Wait until no other run uses the device. Raises Stopped or Paused where someone asked for that."""
    lock = FileLock(workspace.folder / "device.lock")
    while True:
        try:
            lock.acquire(timeout=1)
            return lock
        except Timeout:
            store.update("runs", run_id, heartbeat=now())
            _obey(store, run_id)


def main(folder: str, run_text: str) -> int:
    workspace, run_id = Workspace(Path(folder)), int(run_text)
    store = Store(workspace.database, PATIENCE)
    store.update("runs", run_id, pid=os.getpid())
    signal.signal(signal.SIGTERM, lambda *_: store.update("runs", run_id, asked="stop"))

    def end(status: str, reason: str = "") -> int:
        runs.leave_stages(store, run_id)
        store.update("runs", run_id, status=status, reason=reason, ended=now())
        return 0 if status != "failed" else 1

    try:
        lock = _turn(workspace, store, run_id)
    except Paused:
        return end("paused")
    except Stopped:
        return end("stopped", "Stopped while it waited for its turn.")
    try:
        store.update("runs", run_id, status="running", started=now())
        keep_freed_memory()
        # Torch takes seconds to import: only once it is this run's turn.
        from engine.jobs.job import Job
        from engine.jobs.recipes import RECIPES

        run = runs.get_run(store, run_id)
        RECIPES[run["method"]](Job(workspace, store, run, StoreContext(store, run_id)))
        code = end("finished")
        # What a run would go on from, moments and all, is several times its version; a finished one cannot go on.
        shutil.rmtree(workspace.checkpoints(run_id), ignore_errors=True)
        return code
    except Paused:
        return end("paused")
    except Stopped:
        return end("stopped", "Stopped on request.")
    except UserError as error:
        return end("failed", str(error))
    except MemoryError:
        return end("failed", "The machine ran out of memory. Lower ppo.episodes or use precision=nf4.")
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        if disk_is_full(error):
            reason = "The disk is full. Make room where the workspace lies, then resume the run."
        elif type(error).__name__ == "OutOfMemoryError":
            reason = "The GPU ran out of memory. Lower ppo.episodes or use precision=nf4."
        return end("failed", reason)
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
